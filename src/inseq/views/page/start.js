// Comparison of results, and the beginning of everything.
const FEW = 12;

function compare(root, sections) {
  const panel = make("div", "panel compare live"), extra = make("section", "live");
  const names = sections.map((s, i) => (s.view.data.title || `Text ${i + 1}`));
  const pairs = [];
  sections.forEach((a, i) => sections.forEach((b, j) => i < j && j < FEW && comparable(a.view.data, b.view.data) && pairs.push([i, j])));
  const entries = [["below", "one below the other"], ["beside", "side by side"], ...pairs.flatMap(([i, j]) => [[i, j], [j, i]]).map(([i, j]) => [`${i} ${j}`, `difference: ${names[i]} − ${names[j]}`])];
  panel.append(field("Results", choice(entries, "below", (value) => {
    const pair = value.split(" ").map(Number), different = pair.length === 2;
    root.classList.toggle("beside", value === "beside");
    sections.forEach((s) => (s.hidden = different));
    root.views = root.views.filter((v) => v.section !== extra);
    extra.replaceChildren();
    extra.hidden = !different;
    if (!different) return root.views.forEach((v) => v.set({}));
    const [a, b] = pair.map((i) => sections[i]), title = `${names[pair[0]]} − ${names[pair[1]]}`;
    extra.append(make("h2", "", title), ...[...a.querySelectorAll(".text")].map((t) => t.cloneNode(true)), make("div", "map"), make("div", "legend"));
    root.views.push(new View(root, extra, difference(a.view.data, b.view.data)));
  })));
  if (!pairs.length) panel.append(make("span", "", "A difference needs the same tokens on both sides."));
  root.prepend(panel);
  sections.at(-1).after(extra);
  extra.hidden = true;
}

// Keeps keys from the host: a notebook cuts its cell at an "x" that was meant for the page.
function keepKeys(root) {
  on(root, "keydown", (e) => e.stopPropagation());
  // Notebook 7 listens before the page does, and leaves alone only what has this mark itself.
  on(root, "focusin", (e) => mark(e.target, "data-lm-suppress-shortcuts", "true"));
}

// A page that a browser saved as it was is begun anew.
function start(root) {
  root.querySelectorAll(".live").forEach((part) => part.remove());
  root.querySelectorAll("section").forEach((section) => (section.hidden = false));
  root.classList.remove("beside");
  if ("live" in root.dataset && !root.dataset.chosen) delete root.dataset.theme;
  const original = root.cloneNode(true);
  original.querySelectorAll(".tok").forEach((token) => token.removeAttribute("style"));
  root.original = original.outerHTML;
  root.dataset.live = "";
  root.views = [];
  root.dataset.chosen ||= root.dataset.theme || "";
  follow(root);
  keepKeys(root);
  const sections = [...root.querySelectorAll("section")].filter((s) => s.querySelector("script.data"));
  sections.forEach((section) => root.views.push((section.view = new View(root, section, read(section.querySelector("script.data"))))));
  if (sections.length > 1) compare(root, sections);
  const again = () => {
    if (!root.isConnected) return;
    follow(root);
    root.views.forEach((view) => view.set({}));
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  const watch = new MutationObserver(again), watched = { attributes: true, attributeFilter: ["class", "theme", "data-theme", "data-jp-theme-light", "data-vscode-theme-kind"] };
  [document.documentElement, document.body].forEach((host) => watch.observe(host, watched));
}

document.querySelectorAll(".inseq").forEach((root) => root.views || start(root));
