// The controls of a result, and what leaves the page: tables, pictures, the page itself.
const NAMES = { token: "Tokens", word: "Words", sentence: "Sentences", turn: "Turns", custom: "My spans" };

function field(name, control) {
  const label = make("label", "", name + " ");
  label.append(control);
  return label;
}

function choice(entries, value, change) {
  const select = make("select");
  entries.forEach(([key, name]) => select.append(new Option(name, key, false, key === value)));
  on(select, "change", () => change(select.value));
  return select;
}

function slider(min, max, value, change) {
  const input = Object.assign(make("input"), { type: "range", min, max, value });
  on(input, "input", () => change(Number(input.value)));
  return input;
}

function button(name, act) {
  const made = make("button", "", name);
  made.type = "button";
  on(made, "click", act);
  return made;
}

function menu(name, parts) {
  const details = make("details"), box = make("div", "menu");
  box.append(...parts);
  details.append(make("summary", "", name), box);
  on(details, "keydown", (e) => {
    if (e.key !== "Escape" || !details.open) return;
    details.open = false;
    details.firstChild.focus();
    e.stopPropagation();
  });
  return details;
}

function controls(view, panel) {
  const { data, options } = view, levels = ["token", ...data.groupings.map((g) => g[0]), ...(data.custom ? ["custom"] : [])];
  if (levels.length > 1) panel.append(field("Show", choice(levels.map((l) => [l, NAMES[l] || l]), options.level, (v) => view.set({ level: v }))));
  data.axes.forEach(([name, size], n) => {
    const said = make("output"), at = options.index[n];
    const say = (v) => mark(input, "aria-valuetext", (said.textContent = v ? v - 1 : "all"));
    const input = slider(0, size, at === null ? 0 : at + 1, (v) => {
      say(v);
      view.set({ index: options.index.map((i, other) => (other === n ? (v ? v - 1 : null) : i)) });
    });
    const label = field(name[0].toUpperCase() + name.slice(1), input);
    label.append(said);
    say(Number(input.value));
    panel.append(label);
  });
  const every = Object.assign(make("input"), { type: "checkbox", checked: options.every });
  on(every, "change", () => view.set({ every: every.checked }));
  const shown = [
    field("Colours per", choice([["matrix", "whole matrix"], ["step", "chosen token"]], options.scale, (v) => view.set({ scale: v }))),
    field("Several tokens", choice([["sum", "sum"], ["mean", "mean"]], options.rule, (v) => view.set({ rule: v }))),
    field("Strongest colour from quantile", slider(50, 100, 100 * options.clip, (v) => view.set({ clip: v / 100 }))),
    field("Special and first tokens stretch the scale", every),
    field("Theme", choice([["", "automatic"], ["light", "light"], ["dark", "dark"]], view.root.dataset.chosen || "", (v) => theme(view, v))),
  ];
  if (data.steps.length) shown.splice(1, 0, field("Underline", choice([["", "nothing"], ...data.steps.map(([n]) => [n, n])], options.under, (v) => view.set({ under: v }))));
  const kept = Object.keys(WRITERS).map((kind) => button("Copy " + kind, () => copy(view, WRITERS[kind](grid(view)))));
  kept.push(button("Copy text", () => copy(view, view.text.lines.map((line) => line.textContent).join("\n"))), button("Save SVG", () => sketch(view)), button("Save PNG", () => picture(view)), button("Save the page", () => savePage(view.root)));
  panel.append(menu("View", shown), menu("Copy and save", kept));
}

function theme(view, value) {
  const { root } = view;
  if (value) root.dataset.chosen = root.dataset.theme = value;
  else ["chosen", "theme"].forEach((name) => delete root.dataset[name]);
  follow(root);
  root.views.forEach((each) => each.set({}));
}

// The matrix as lines of cells, as it is shown.
function grid({ level }) {
  const width = level.columns.length, text = (v) => (isFinite(v) ? String(Number(v.toPrecision(6))) : "");
  const head = ["", ...level.columns.map((c) => c.label)];
  const body = level.rows.map((row, i) => [row.label, ...Array.from(level.values.subarray(i * width, (i + 1) * width), text)]);
  return [head, ...body, ...level.steps.map(([name, cells]) => [name, ...cells.map(text)])];
}

const LATEX = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" };
const latex = (cell) => cell.replace(/[\\~^{}$&#_%]/g, (c) => LATEX[c] || "\\" + c);
const WRITERS = {
  TSV: (lines) => lines.map((line, n) => line.map((c, i) => ((n && i) || !/^[-=+@]/.test(c) ? c : "'" + c)).join("\t")).join("\n"),
  Markdown: ([head, ...body]) => [head, head.map((_, i) => (i ? "---:" : ":---")), ...body].map((l) => "| " + l.map((c) => c.replace(/([\\|\x60*_<>&[\]])/g, "\\$1")).join(" | ") + " |").join("\n"),
  LaTeX: (lines) => ["\\begin{tabular}{l" + "r".repeat(lines[0].length - 1) + "}", ...lines.map((l) => l.map(latex).join(" & ") + " \\\\"), "\\end{tabular}"].join("\n"),
};

function copy(view, text) {
  const said = (ok) => (view.told.textContent = ok ? "Copied." : "This browser forbids copying.");
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => said(true), () => said(fallback(text)));
  said(fallback(text));
}

function fallback(text) {
  const area = Object.assign(make("textarea"), { value: text }), before = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before.focus();
  return done;
}

function keep(kind, type, content) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = Object.assign(make("a"), { href: url, download: "attribution." + kind });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// The whole matrix at one size for all cells, whatever can be seen of it.
function drawing(view) {
  const { level } = view, colours = palette(view.root, view.matrix.scale.kind), style = getComputedStyle(view.root);
  const w = 46, h = 24, left = 150, top = 96, safe = (t) => t.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  const power = exponent(view.matrix.scale.maximum), width = left + w * level.columns.length + 8, height = top + h * level.rows.length + 8, parts = [];
  const text = (x, y, anchor, fill, said, more) => parts.push(`<text x="${x}" y="${y}" text-anchor="${anchor}" fill="${fill}"${more || ""}>${safe(said)}</text>`);
  if (power) text(left - 8, top - 8, "end", style.color, "scores" + powerSign(power));
  level.columns.forEach((c, j) => text(0, 0, "start", style.color, c.label, ` transform="translate(${left + (j + 0.6) * w} ${top - 6}) rotate(-60)"`));
  level.rows.forEach((row, i) => {
    text(left - 8, top + i * h + 16, "end", style.color, row.label);
    level.columns.forEach((_, j) => {
      const value = level.values[i * level.columns.length + j];
      if (!isFinite(value)) return;
      const colour = colours[levelOf(value, view.matrix.scale)];
      parts.push(`<rect x="${left + j * w + 1}" y="${top + i * h + 1}" width="${w - 2}" height="${h - 2}" fill="${colour.fill}"/>`);
      text(left + (j + 0.5) * w, top + i * h + 16, "middle", colour.ink, number(value, power));
    });
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="${style.backgroundColor}"/>${parts.join("")}</svg>`;
}

const large = ({ level }) => level.rows.length * level.columns.length > 20000;

function sketch(view) {
  if (large(view)) view.told.textContent = "Too many cells for an SVG; PNG saves what is seen.";
  else keep("svg", "image/svg+xml", drawing(view));
}

// The same as pixels; of what is too large for a picture, the part that is seen.
function picture(view) {
  const save = (canvas) => canvas.toBlob((blob) => keep("png", "image/png", blob));
  if (large(view)) return save(view.matrix.canvas);
  const image = new Image(), url = URL.createObjectURL(new Blob([drawing(view)], { type: "image/svg+xml" }));
  image.onload = () => {
    const canvas = make("canvas");
    fit(canvas, image.width, image.height);
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    URL.revokeObjectURL(url);
    save(canvas);
  };
  image.src = url;
}

function savePage(root) {
  const sheet = document.querySelector("style.sheet");
  const head = `<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="${root.dataset.policy}"><title>Inseq attribution</title>`;
  keep("html", "text/html", `<!doctype html><html lang="en"><head>${head}<style class="sheet">${sheet.textContent}</style></head><body>${root.original}</body></html>`);
}
