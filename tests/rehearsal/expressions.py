"""GitHub's expressions, as far as our workflows use them: literals, contexts, `!`, `==`, `!=`, `&&`, `||`, and a few functions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>\d+)|(?P<word>[A-Za-z_][\w-]*)|(?P<sign>&&|\|\||==|!=|[!().,\[\]]))"
)
_STATUS = ("success", "failure", "cancelled", "always")


class Expression:
    """One expression, evaluated while it is read. `contexts`: what names stand for. `succeeded`: of success()."""

    def __init__(self, text: str, contexts: Mapping[str, Any], succeeded: bool = True) -> None:
        self.text, self.contexts, self.succeeded = text, contexts, succeeded
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if not found:
                raise ValueError(f"nobody here can read {text[at:]!r} in {text!r}")
            self.tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            at = found.end()
        self.at = 0

    def value(self) -> Any:
        result = self._or()
        if self.at != len(self.tokens):
            raise ValueError(f"{self.text!r} goes on where it should end")
        return result

    def _next(self, *signs: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at] in [("sign", sign) for sign in signs]:
            self.at += 1
            return True
        return False

    def _or(self) -> Any:
        left = self._and()
        while self._next("||"):
            right = self._and()
            left = left or right
        return left

    def _and(self) -> Any:
        left = self._equal()
        while self._next("&&"):
            right = self._equal()
            left = left and right
        return left

    def _equal(self) -> Any:
        left = self._not()
        while True:
            if self._next("=="):
                left = _loose(left) == _loose(self._not())
            elif self._next("!="):
                left = _loose(left) != _loose(self._not())
            else:
                return left

    def _not(self) -> Any:
        return not self._not() if self._next("!") else self._single()

    def _single(self) -> Any:
        if self._next("("):
            inner = self._or()
            assert self._next(")"), self.text
            return inner
        kind, word = self.tokens[self.at]
        self.at += 1
        if kind == "text":
            return word[1:-1].replace("''", "'")
        if kind == "number":
            return int(word)
        if word in ("true", "false", "null"):
            return json.loads(word)
        if self._next("("):
            return self._call(word)
        return self._path(self.contexts[word])

    def _path(self, value: Any) -> Any:
        while True:
            if self._next("."):
                name = self.tokens[self.at][1]
                self.at += 1
                value = value.get(name) if isinstance(value, Mapping) else None
            elif self._next("["):
                index = self._or()
                assert self._next("]"), self.text
                try:
                    value = value[index]
                except (LookupError, TypeError):
                    value = None
            else:
                return value

    def _call(self, name: str) -> Any:
        arguments = []
        while not self._next(")"):
            arguments.append(self._or())
            self._next(",")
        if name in _STATUS:
            return {"success": self.succeeded, "failure": not self.succeeded, "cancelled": False, "always": True}[name]
        if name == "fromJSON":
            return json.loads(arguments[0])
        if name == "contains":
            return arguments[1] in arguments[0]
        raise ValueError(f"nobody here knows the function {name} in {self.text!r}")


def _loose(value: Any) -> Any:
    """Nothing equals the empty text."""
    return "" if value is None else value


def condition(text: object, contexts: Mapping[str, Any], succeeded: bool) -> bool:
    """An `if:`. Without a function of status in it, success() is meant, too."""
    inner = re.sub(r"^\s*\$\{\{(.*)\}\}\s*$", r"\1", str(text), flags=re.DOTALL)
    asks = any(f"{name}(" in inner for name in _STATUS)
    return (asks or succeeded) and bool(Expression(inner, contexts, succeeded).value())


def filled(value: Any, contexts: Mapping[str, Any]) -> Any:
    """A value of a workflow with its `${{ }}` filled in; one that is nothing else keeps its type."""
    if isinstance(value, Mapping):
        return {key: filled(one, contexts) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, contexts) for one in value]
    if not isinstance(value, str):
        return value
    whole = re.fullmatch(r"\s*\$\{\{((?:(?!\}\}).)*)\}\}\s*", value, re.DOTALL)
    if whole:
        return Expression(whole[1], contexts).value()
    return re.sub(r"\$\{\{(.*?)\}\}", lambda match: _text(Expression(match[1], contexts).value()), value, flags=re.DOTALL)


def _text(value: Any) -> str:
    return "" if value is None else json.dumps(value) if isinstance(value, bool) else str(value)
