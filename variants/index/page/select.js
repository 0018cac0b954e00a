// Looks the answers up; which wheel fits where was decided when the page was made.
{
  const data = JSON.parse(document.querySelector("#answers").textContent);
  const form = document.querySelector("#choose"), answer = document.querySelector("#answer");
  const at = (id) => document.querySelector(`#${id}`);
  const chosen = (name) => Number(form.elements[name].value);
  const differ = (cells) => new Set(cells.flat().flatMap((row) => data.rows[row])).size > 1;
  const labels = new RegExp(`\\b(${data.labels.join("|")})\\b`);
  const say = (id, text) => {
    at(id).replaceChildren(...(data.labels.length ? text.split(labels) : [text]).map((part, number) => {
      const span = document.createElement("span");
      span.className = "label";
      span.textContent = part;
      return number % 2 ? span : part;
    }));
    at(id).hidden = !text;
  };

  const show = () => {
    const system = chosen("system"), maker = chosen("maker"), grid = data.grids[system];
    at("ask-maker").hidden = !differ(grid);  // nothing is asked that makes no difference
    let model = 0, state = 0;
    for (const block of form.querySelectorAll("[data-maker]")) {
      const number = Number(block.dataset.maker);
      block.hidden = number !== maker || !differ(grid[number]);
      if (number !== maker || block.hidden) continue;
      model = Number(block.querySelector("[data-ask=model]").value);
      state = Number(block.querySelector("[data-ask=state]").value);
    }
    const installer = form.elements.installer.value;
    const ways = data.ways.filter((way) => way.installer === installer);
    for (const radio of form.elements.place) radio.disabled = !ways.some((way) => way.place === radio.value);
    if (!ways.some((way) => way.place === form.elements.place.value)) {
      for (const radio of form.elements.place) radio.checked = radio.value === ways[0].place;
    }
    const way = ways.find((one) => one.place === form.elements.place.value);
    const outcome = data.outcomes[data.rows[grid[maker][model]][state]], knows = "variants" in way.commands;
    const kind = knows ? outcome.uv : outcome.other, asks = knows && outcome.asks && kind === "variants";
    const label = kind === "variants" ? outcome.label : kind;
    const block = form.querySelector(`[data-maker="${maker}"] [data-ask=state]`);
    const driver = block ? block.selectedOptions[0].textContent : "";
    answer.dataset.label = asks ? "" : label;
    say("why", asks ? data.asks[system] : outcome.why.replace("{driver}", driver));
    say("hint", asks ? "" : outcome.hint);
    at("run").hidden = kind === "nothing";
    const fill = (text) => text.replaceAll("{url}", here).replaceAll("{label}", label).replaceAll("{project}", data.project).replaceAll("{pin}", "");
    const template = way.commands[kind] ?? way.commands.label;
    write(at("command"), kind === "nothing" ? "" : fill(template));
    say("note", kind === "nothing" ? "" : fill(way.notes[way.commands[kind] ? kind : "label"] ?? ""));
    const fact = asks ? "" : (data.facts[label] ?? {})[system] ?? "";
    at("about").hidden = !fact;
    at("which").textContent = label;
    at("facts").textContent = fact;
  };

  // What the browser says, in small letters: its platform, and its GPU by WebGPU and WebGL. The longest of an answer's words counts.
  const said = async () => {
    if (/android|iphone|ipad|cros/i.test(navigator.userAgent)) return {};
    let platform = navigator.platform ?? "", gpu = "";
    try {
      const more = await navigator.userAgentData.getHighEntropyValues(["architecture", "platform"]);
      platform += ` ${more.platform} ${more.architecture}`;
    } catch { /* only some browsers have it */ }
    try {
      const { info } = await navigator.gpu.requestAdapter();
      gpu = `${info.vendor} ${info.architecture} ${info.device} ${info.description}`;
    } catch { /* no WebGPU, or no adapter */ }
    try {
      const gl = document.createElement("canvas").getContext("webgl"), more = gl.getExtension("WEBGL_debug_renderer_info");
      const name = gl.getParameter(more ? more.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
      gpu += name.includes("or similar") ? ` ${name.split(/[ ,]/)[0]}` : ` ${name}`;  // Firefox names another GPU of the same maker
    } catch { /* no WebGL */ }
    gpu = gpu.toLowerCase();
    if (/mac/i.test(platform) && gpu) platform += ` macintel ${/apple/.test(gpu) ? "apple" : "intel"}`;
    return { platform: platform.toLowerCase(), gpu: /swiftshader|llvmpipe|basic render/.test(gpu) ? "" : gpu };
  };
  const best = (lists, text) => {
    const found = lists.map((words) => Math.max(0, ...words.map((word) => (text.includes(word) ? word.length : 0))));
    return Math.max(...found) ? found.indexOf(Math.max(...found)) : -1;
  };
  const touched = new Set();
  const guess = (name, number) => {
    if (number < 0 || touched.has(name)) return;
    const model = name === "model" && form.querySelector(`[data-maker="${chosen("maker")}"] [data-ask=model]`);
    if (model) model.value = number;
    else form.elements[name].value = number;
    const mark = document.createElement("span");
    mark.className = "guess";
    mark.textContent = "a guess";
    (model ? model.labels[0].querySelector("b") : at(`ask-${name}`).querySelector("legend")).append(mark);
    at("guessed").hidden = false;
  };

  form.addEventListener("change", (event) => {
    const name = event.target.name || event.target.dataset.ask;
    touched.add(name);
    event.target.closest(event.target.name ? "fieldset" : "label").querySelectorAll(".guess").forEach((mark) => mark.remove());
    show();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.reset();
  form.hidden = false;
  at("table").open = false;
  show();
  said().then(({ platform = "", gpu = "" }) => {
    guess("system", best(data.words.system, platform));
    const maker = best(data.words.maker, gpu);
    guess("maker", maker);
    if (maker >= 0 && chosen("maker") === maker && data.words.model[maker].length > 1) guess("model", best(data.words.model[maker], gpu));
    show();
    form.dataset.ready = "";
  });
}
