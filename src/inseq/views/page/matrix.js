// The matrix on a canvas: frozen labels, native scrolling, a crosshair, and a small map where not all of it can be seen.
const FONT = "12px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans','Liberation Sans','PingFang SC','Microsoft YaHei','WenQuanYi Micro Hei',sans-serif";
const TALL = 620;
const MAP = { width: 190, height: 110 };

class Matrix {
  constructor(view, host) {
    this.view = view;
    this.box = make("div", "box");
    this.size = make("div", "size");
    this.canvas = make("canvas");
    this.map = make("canvas", "map");
    this.canvas.tabIndex = 0;
    mark(this.canvas, "role", "application");
    mark(this.map, "aria-hidden", "true");
    this.size.append(this.canvas);
    this.box.append(this.size);
    host.replaceChildren(this.box, this.map);
    this.cross = null;
    on(this.box, "scroll", () => this.paint());
    on(this.canvas, "pointermove", (e) => this.move(e));
    on(this.canvas, "pointerleave", () => this.look(null));
    on(this.canvas, "click", (e) => this.click(e));
    on(this.canvas, "keydown", (e) => this.key(e));
    on(this.map, "pointerdown", (e) => this.jump(e));
    on(this.map, "pointermove", (e) => e.buttons && this.jump(e));
    this.stage = host.parentElement;
    new ResizeObserver(() => this.draw()).observe(this.stage);
  }

  show(level, scale, selected) {
    const other = this.level !== level, same = this.scale === scale;
    Object.assign(this, { level, scale, selected });
    if (other) this.cross = null;
    if (other || !same) this.draw();
    else this.paint();
  }

  // Sizes first: cells as wide as their labels if they fit, else narrower, else the box scrolls.
  draw() {
    const { level, stage } = this, beside = getComputedStyle(stage).flexDirection === "row";
    const wide = stage.clientWidth - (beside ? stage.lastChild.offsetWidth + 24 : 0);
    if (!level || wide < 1 || !level.columns.length) return;
    const pen = this.canvas.getContext("2d");
    pen.font = "bold " + FONT;
    const most = (items, cap) => items.reduce((w, item) => Math.max(w, Math.min(cap, pen.measureText(item.label).width)), 0);
    const names = level.steps.map(([label]) => ({ label }));
    this.left = Math.min(most([...level.rows, ...names], 170) + 14, wide * 0.4);
    const label = most(level.columns, 100), room = (wide - this.left - 2) / level.columns.length;
    this.w = Math.max(Math.min(Math.max(label + 14, 60), room), Math.min(room, 14), 13);
    this.upright = label + 8 <= this.w;
    this.top = this.upright ? 24 : label + 12;
    this.h = level.rows.length <= 22 ? 25 : 17;
    this.foot = level.steps.length * 22 + (level.steps.length ? 5 : 0);
    this.width = this.left + this.w * level.columns.length + 1;
    this.height = this.top + this.h * level.rows.length + this.foot + 1;
    this.size.style.width = this.width + "px";
    this.size.style.height = this.height + "px";
    this.seen = { width: Math.min(this.width, wide), height: Math.min(this.height, TALL) };
    this.box.style.height = this.seen.height + (this.width > wide ? 16 : 0) + "px";
    fit(this.canvas, this.seen.width, this.seen.height);
    mark(this.canvas, "aria-label", `Heat map of ${level.rows.length} input by ${level.columns.length} output tokens; arrow keys move, Enter pins`);
    this.colours = palette(this.view.root, this.scale.kind);
    this.partial = this.width > wide + 1 || this.height > TALL;
    this.map.hidden = !this.partial;
    if (this.partial) this.drawMap();
    this.paint();
  }

  fill(i, j) {
    const value = this.level.values[i * this.level.columns.length + j];
    return isFinite(value) ? this.colours[levelOf(value, this.scale)] : null;
  }

  paint() {
    if (!this.colours) return;
    const pen = this.canvas.getContext("2d"), { level, w, h, left, top } = this;
    const style = getComputedStyle(this.view.root), x0 = this.box.scrollLeft, y0 = this.box.scrollTop;
    const paper = style.backgroundColor, ink = style.color;
    const first = [Math.floor(y0 / h), Math.floor(x0 / w)];
    const last = [Math.min(level.rows.length, Math.ceil((y0 + this.seen.height - top) / h)), Math.min(level.columns.length, Math.ceil((x0 + this.seen.width - left) / w))];
    const power = exponent(Math.max(-this.scale.minimum, this.scale.maximum));
    const gap = w > 8 && h > 8 ? 1 : 0, numbers = w >= 38 && h >= 16;
    pen.setTransform(this.dpr, 0, 0, this.dpr, 0, 0);
    pen.font = FONT;
    pen.textBaseline = "middle";
    pen.fillStyle = paper;
    pen.fillRect(0, 0, this.seen.width, this.seen.height);
    pen.textAlign = "center";
    for (let i = first[0]; i < last[0]; i++) for (let j = first[1]; j < last[1]; j++) {
      const x = left + j * w - x0, y = top + i * h - y0, colour = this.fill(i, j);
      if (!colour) {
        hatch(pen, x + gap, y + gap, w - 2 * gap, h - 2 * gap, ink);
        continue;
      }
      pen.fillStyle = colour.fill;
      pen.fillRect(x + gap, y + gap, w - 2 * gap, h - 2 * gap);
      if (!numbers) continue;
      pen.fillStyle = colour.ink;
      pen.fillText(number(level.values[i * level.columns.length + j], power), x + w / 2, y + h / 2 + 0.5);
    }
    this.paintSteps(pen, x0, y0, first, last, ink);
    this.paintLabels(pen, x0, y0, first, last, paper, ink);
    this.paintCross(pen, x0, y0, ink);
    if (this.partial) this.frame();
  }

  paintSteps(pen, x0, y0, first, last, ink) {
    const under = this.top + this.level.rows.length * this.h - y0 + 5;
    this.level.steps.forEach(([, cells], n) => {
      const power = powerOf(cells);
      pen.fillStyle = ink;
      if (this.w >= 38) for (let j = first[1]; j < last[1]; j++) pen.fillText(number(cells[j], power), this.left + (j + 0.5) * this.w - x0, under + n * 22 + 11);
    });
  }

  paintLabels(pen, x0, y0, first, last, paper, ink) {
    const { level, w, h, left, top } = this;
    pen.fillStyle = paper;
    pen.fillRect(0, 0, left, this.seen.height);
    pen.textAlign = "right";
    const strong = (chosen) => (pen.fillStyle = ink, pen.font = chosen ? "bold " + FONT : FONT);
    for (let i = first[0]; i < last[0]; i++) {
      strong(this.selected.rows.has(i) || (this.cross && this.cross[0] === i));
      pen.fillText(cut(pen, level.rows[i].label, left - 12), left - 7, top + (i + 0.5) * h - y0);
    }
    level.steps.forEach(([name, cells], n) => {
      strong(name === this.view.options.under);
      pen.fillText(cut(pen, name + (this.w >= 38 ? powerSign(powerOf(cells)) : ""), left - 12), left - 7, top + level.rows.length * h - y0 + 16 + n * 22);
    });
    pen.fillStyle = paper;
    pen.fillRect(0, 0, this.seen.width, top);
    for (let j = first[1]; j < last[1]; j++) {
      strong(this.selected.columns.has(j) || (this.cross && this.cross[1] === j));
      const x = left + (j + 0.5) * w - x0;
      if (x < left + 2) continue;
      pen.save();
      pen.translate(x, this.upright ? top / 2 : top - 5);
      if (!this.upright) pen.rotate(-Math.PI / 2);
      pen.textAlign = this.upright ? "center" : "left";
      pen.fillText(cut(pen, level.columns[j].label, this.upright ? w - 4 : top - 8), 0, 0);
      pen.restore();
    }
    pen.fillStyle = paper;
    pen.fillRect(0, 0, left, top);
    pen.textAlign = "right";
    pen.font = FONT;
    pen.fillStyle = ink;
    if (left > 110) pen.fillText("input ↓ output →", left - 7, top - 11);
  }

  paintCross(pen, x0, y0, ink) {
    const { w, h, left, top, level } = this;
    pen.strokeStyle = ink;
    pen.lineWidth = 1;
    const box = (x, y, width, height) => {
      const a = Math.max(x, left), b = Math.max(y, top);
      if (x + width > a && y + height > b) pen.strokeRect(a + 0.5, b + 0.5, x + width - a - 1, y + height - b - 1);
    };
    runs(this.selected.columns).forEach(([a, b]) => box(left + a * w - x0, top - y0, (b - a) * w, level.rows.length * h));
    runs(this.selected.rows).forEach(([a, b]) => box(left - x0, top + a * h - y0, level.columns.length * w, (b - a) * h));
    if (!this.cross) return;
    pen.lineWidth = 2;
    box(left + this.cross[1] * w - x0, top + this.cross[0] * h - y0, w, h);
    pen.globalAlpha = 0.4;
    pen.lineWidth = 1;
    box(left + this.cross[1] * w - x0, top - y0, w, level.rows.length * h);
    box(left - x0, top + this.cross[0] * h - y0, level.columns.length * w, h);
    pen.globalAlpha = 1;
  }

  // Each pixel of the map shows the largest magnitude of what it stands for.
  drawMap() {
    const { rows, columns, values } = this.level, width = Math.min(MAP.width, columns.length), height = Math.min(MAP.height, rows.length);
    const best = new Float32Array(width * height).fill(NaN);
    for (let i = 0; i < rows.length; i++) for (let j = 0; j < columns.length; j++) {
      const value = values[i * columns.length + j], at = Math.floor((i * height) / rows.length) * width + Math.floor((j * width) / columns.length);
      if (isFinite(value) && !(Math.abs(value) <= Math.abs(best[at]))) best[at] = value;
    }
    this.overview = make("canvas");
    this.overview.width = width;
    this.overview.height = height;
    const pen = this.overview.getContext("2d");
    best.forEach((value, at) => {
      if (!isFinite(value)) return;
      pen.fillStyle = this.colours[levelOf(value, this.scale)].fill;
      pen.fillRect(at % width, Math.floor(at / width), 1, 1);
    });
    fit(this.map, MAP.width, MAP.height);
  }

  frame() {
    const pen = this.map.getContext("2d"), style = getComputedStyle(this.view.root), { rows, columns } = this.level;
    pen.setTransform(this.dpr, 0, 0, this.dpr, 0, 0);
    pen.fillStyle = style.backgroundColor;
    pen.fillRect(0, 0, MAP.width, MAP.height);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(this.overview, 0, 0, MAP.width, MAP.height);
    const across = MAP.width / (columns.length * this.w), down = MAP.height / (rows.length * this.h);
    pen.strokeStyle = style.color;
    pen.lineWidth = 1.5;
    pen.strokeRect(this.box.scrollLeft * across + 1, this.box.scrollTop * down + 1, Math.min((this.seen.width - this.left) * across, MAP.width) - 2, Math.min((this.seen.height - this.top) * down, MAP.height) - 2);
  }

  jump(event) {
    const { rows, columns } = this.level, x = event.offsetX / MAP.width, y = event.offsetY / MAP.height;
    this.box.scrollTo(x * columns.length * this.w - (this.seen.width - this.left) / 2, y * rows.length * this.h - (this.seen.height - this.top) / 2);
  }

  // Row and column under the pointer, -1 in the margins; for the names of step scores, which one.
  cell(event) {
    const x = event.offsetX, y = event.offsetY, down = y - this.top + this.box.scrollTop, below = down - this.level.rows.length * this.h;
    const j = x < this.left ? -1 : Math.floor((x - this.left + this.box.scrollLeft) / this.w);
    if (below >= 0) return [-1, -1, x < this.left ? Math.floor((below - 5) / 22) : undefined];
    return [y < this.top ? -1 : Math.floor(down / this.h), j];
  }

  move(event) {
    const [i, j] = this.cell(event);
    this.look(i >= 0 && j >= 0 && j < this.level.columns.length ? [i, j] : null);
  }

  look(cross) {
    if (String(cross) === String(this.cross)) return;
    this.cross = cross;
    this.paint();
    this.view.tellCell(cross);
  }

  click(event) {
    const [i, j, step] = this.cell(event), { rows, columns, steps } = this.level, { view } = this;
    const unit = (items, n) => view.level.units.indexOf(items[n].unit);
    if (step !== undefined && steps[step]) view.set({ under: view.options.under === steps[step][0] ? "" : steps[step][0] });
    else if (j >= 0 && j < columns.length) view.toggle("column", unit(columns, j));
    else if (i >= 0 && i < rows.length) view.toggle("row", unit(rows, i));
  }

  key(event) {
    const [i, j] = this.cross || [-1, -1], { rows, columns } = this.level;
    const to = { ArrowUp: [i - 1, j], ArrowDown: [i + 1, j], ArrowLeft: [i, j - 1], ArrowRight: [i, j + 1] }[event.key];
    if (to) {
      const cross = [Math.min(Math.max(to[0], 0), rows.length - 1), Math.min(Math.max(to[1], 0), columns.length - 1)];
      this.reveal(cross);
      this.look(cross);
    } else if (event.key === "Enter" && this.cross) this.view.toggle("column", this.view.level.units.indexOf(columns[j].unit));
    else return;
    event.preventDefault();
  }

  reveal([i, j]) {
    const near = (at, size, from, room) => (at * size < from ? at * size : (at + 1) * size > from + room ? (at + 1) * size - room : from);
    this.box.scrollTo(near(j, this.w, this.box.scrollLeft, this.seen.width - this.left), near(i, this.h, this.box.scrollTop, this.seen.height - this.top));
  }

  get dpr() {
    return devicePixelRatio || 1;
  }
}

function fit(canvas, width, height) {
  const dpr = devicePixelRatio || 1;
  canvas.width = Math.round(width * dpr);
  canvas.height = Math.round(height * dpr);
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
}

function hatch(pen, x, y, width, height, colour) {
  if (width < 4) return;
  pen.save();
  pen.beginPath();
  pen.rect(x, y, width, height);
  pen.clip();
  pen.strokeStyle = colour;
  pen.globalAlpha = 0.25;
  pen.lineWidth = 1;
  pen.beginPath();
  for (let at = -height; at < width; at += 6) {
    pen.moveTo(x + at, y + height);
    pen.lineTo(x + at + height, y);
  }
  pen.stroke();
  pen.restore();
}

function cut(pen, text, width) {
  if (pen.measureText(text).width <= width) return text;
  const signs = Array.from(text.slice(0, 99));
  while (signs.length && pen.measureText(signs.join("") + "…").width > width) signs.pop();
  return signs.join("") + "…";
}

// Stretches of neighbours in a set of numbers, half-open.
function runs(numbers) {
  const found = [];
  for (const n of [...numbers].sort((a, b) => a - b)) {
    const last = found[found.length - 1];
    if (last && last[1] === n) last[1] = n + 1;
    else found.push([n, n + 1]);
  }
  return found;
}
