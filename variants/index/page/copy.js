// The page is complete without this: it puts the page's own address into the commands, and adds buttons that copy them.
const here = location.protocol.startsWith("http") ? new URL(root, location.href).href : made;
const write = (pre, text) => pre.replaceChildren(...text.split(/([ \n])/).map((word, number) => {
  const span = document.createElement("span");
  span.textContent = word;
  return number % 2 ? word : span;
}));
for (const box of document.querySelectorAll(".command")) {
  const pre = box.querySelector("pre"), button = document.createElement("button");
  write(pre, pre.textContent.replaceAll(made, here));
  button.type = "button";
  button.textContent = "Copy";
  const copied = (text) => { button.textContent = text; setTimeout(() => { button.textContent = "Copy"; }, 2000); };
  button.addEventListener("click", () => {
    const select = () => { getSelection().selectAllChildren(pre); copied(document.execCommand("copy") ? "Copied" : "Ctrl+C"); };
    navigator.clipboard ? navigator.clipboard.writeText(pre.textContent).then(() => copied("Copied"), select) : select();
  });
  box.append(button);
}
// What is folded is printed, too.
let folded = [];
addEventListener("beforeprint", () => { folded = [...document.querySelectorAll("details:not([open])")]; folded.forEach((one) => { one.open = true; }); });
addEventListener("afterprint", () => folded.forEach((one) => { one.open = false; }));
