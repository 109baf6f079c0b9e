// The running text: units that can be pointed at, pinned, dragged over and walked through with the keyboard.
class Text {
  constructor(view, lines) {
    this.view = view;
    this.lines = lines;
    this.nodes = [];
    this.anchor = null;
    lines.forEach((line) => {
      mark(line, "role", "listbox");
      mark(line, "aria-multiselectable", "true");
      mark(line, "aria-orientation", "horizontal");
      on(line, "pointerover", (e) => this.point(e, true));
      on(line, "pointerleave", () => view.preview(null));
      on(line, "pointerdown", (e) => this.press(e));
      on(line, "pointercancel", () => (this.anchor = null));
      on(line, "focusin", (e) => this.focused(e));
      on(line, "focusout", () => view.preview(null));
      on(line, "keydown", (e) => this.key(e));
    });
  }

  draw(level) {
    this.level = level;
    this.nodes = level.units.map((unit) => this.node(unit));
    this.lines.forEach((line) => {
      const parts = [];
      level.units.forEach((unit, i) => {
        if (!!unit.line !== (line.dataset.line === "output")) return;
        const first = this.view.data.places[unit.places[0]];
        if (first.flags & BLANK && parts.length) parts.push(" ");
        parts.push(this.nodes[i]);
      });
      line.replaceChildren(...parts);
      const first = line.querySelector(".tok");
      if (first) first.tabIndex = 0;
    });
  }

  node(unit) {
    const places = unit.places.map((i) => this.view.data.places[i]), node = make("span", "tok");
    node.textContent = places.map((p, i) => (i && p.flags & BLANK ? " " : "") + p.text + (p.flags & BREAK ? "\n" : "")).join("");
    if (places.every((p) => p.flags & SPECIAL)) node.classList.add("special");
    if (places.length > 1 && places.every((p) => p.group === places[0].group)) node.classList.add("pieces");
    node.dir = "auto";
    node.tabIndex = -1;
    mark(node, "role", "option");
    if (!unit.rows.length && !unit.columns.length) mark(node, "aria-disabled", "true");
    return node;
  }

  // Colours by `scores`: a number for each unit, NaN where there is none.
  shade(scores, scale, selected, under) {
    this.nodes.forEach((node, i) => {
      const kinds = ["tok", ...["special", "pieces"].filter((k) => node.classList.contains(k))];
      const kind = classOf(scores[i], scale);
      if (kind) kinds.push(kind);
      if (selected.has(i)) kinds.push("chosen");
      if (under[i] !== undefined) kinds.push("u" + under[i]);
      node.className = kinds.join(" ");
      mark(node, "aria-selected", String(selected.has(i)));
    });
  }

  at(event) {
    const node = event.target.closest ? event.target.closest(".tok") : null;
    return node ? this.nodes.indexOf(node) : -1;
  }

  point(event) {
    const i = this.at(event);
    if (i < 0) return;
    if (this.anchor !== null && this.anchor !== i && this.sameLine(this.anchor, i)) {
      this.dragged = true;
      this.view.pin(this.kind(this.anchor, event), this.anchor, i);
    } else if (this.anchor === null) this.view.preview({ kind: this.kind(i, event), from: i, to: i });
  }

  press(event) {
    const i = this.at(event);
    if (i < 0 || event.button) return;
    if (event.pointerType === "mouse") event.preventDefault();
    this.nodes[i].focus({ preventScroll: true });
    this.anchor = i;
    this.dragged = false;
    this.reversed = event.altKey;
    on(window, "pointerup", () => this.release(), { once: true });
  }

  release() {
    const i = this.anchor;
    this.anchor = null;
    if (i !== null && !this.dragged) this.view.toggle(this.kind(i, { altKey: this.reversed }), i);
  }

  // Output asks what made it; input, or output with Alt, asks what it influenced.
  kind(i, event) {
    const unit = this.level.units[i];
    return unit.columns.length && !(event && event.altKey && unit.rows.length) ? "column" : "row";
  }

  sameLine(i, j) {
    return this.level.units[i].line === this.level.units[j].line;
  }

  focused(event) {
    const i = this.at(event);
    if (i < 0) return;
    this.nodes.forEach((node) => node.tabIndex === 0 && this.sameLine(this.nodes.indexOf(node), i) && (node.tabIndex = -1));
    this.nodes[i].tabIndex = 0;
    this.view.preview({ kind: this.kind(i), from: i, to: i });
  }

  key(event) {
    const i = this.at(event);
    if (i < 0 || event.ctrlKey || event.metaKey) return;
    const line = this.level.units.map((_, n) => n).filter((n) => this.sameLine(n, i)), here = line.indexOf(i);
    const other = this.level.units.findIndex((_, n) => !this.sameLine(n, i));
    const rtl = getComputedStyle(event.target.parentElement).direction === "rtl" ? -1 : 1;
    const to = { ArrowLeft: line[here - rtl], ArrowRight: line[here + rtl], Home: line[0], End: line[line.length - 1], ArrowUp: i > other ? other : undefined, ArrowDown: i < other ? other : undefined }[event.key];
    if (to !== undefined) {
      this.nodes[to].focus();
      if (event.shiftKey && this.sameLine(to, i)) this.view.extend(this.kind(i), i, to);
    } else if (event.key === "Enter" || event.key === " ") this.view.toggle(this.kind(i, event), i);
    else if (event.key === "r" && this.level.units[i].rows.length) this.view.pin("row", i, i);
    else if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
  }
}
