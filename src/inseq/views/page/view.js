// One result: what is chosen, what that means in numbers, and in words.
class View {
  constructor(root, section, data) {
    Object.assign(this, { root, section, data, selected: null, hovered: null });
    this.options = { level: "token", index: data.axes.map(() => null), scale: "matrix", clip: 1, every: false, rule: "sum", under: data.highlight };
    const lines = [...section.querySelectorAll(".run")];
    this.text = new Text(this, lines);
    this.panel = make("div", "panel live");
    this.told = make("p", "told");
    mark(this.told, "aria-live", "polite");
    this.top = make("ol", "top");
    const map = section.querySelector(".map") || section.appendChild(make("div", "map"));
    map.querySelectorAll(".fallback").forEach((old) => old.remove());
    const stage = make("div", "stage live"), host = make("div", "host"), side = make("div", "side");
    this.joining = button("Join the chosen tokens", () => this.join());
    side.append(this.told, this.top, this.joining);
    stage.append(host, side);
    map.append(stage);
    this.legend = section.querySelector(".legend") || make("div", "legend");
    if (data.columns.length && data.rows.length) this.matrix = new Matrix(this, host);
    [this.panel, stage, ...lines].forEach((part) => on(part, "keydown", (e) => e.key === "Escape" && this.free()));
    section.insertBefore(this.panel, lines.length ? lines[0].closest(".text") : map);
    controls(this, this.panel);
    this.regroup();
  }

  set(changes) {
    Object.assign(this.options, changes);
    this.whole = null;
    this.settled().forEach((part) => (part.style.minHeight = ""));
    if ("level" in changes || "index" in changes) this.regroup();
    else this.update();
  }

  // What was chosen stays chosen: it is remembered by its places in the text.
  regroup() {
    const old = this.level, span = this.selected && old && [old.units[this.selected.from].places[0], old.units[this.selected.to].places.at(-1)];
    this.level = level(this.data, this.options.level, this.options.index);
    this.hovered = this.whole = null;
    if (span) {
      const unit = (place) => this.level.units.findIndex((u) => u.places.includes(place));
      Object.assign(this.selected, { from: (this.anchor = unit(span[0])), to: unit(span[1]) });
    }
    this.text.draw(this.level);
    this.update();
  }

  preview(chosen) {
    this.hovered = chosen;
    const { selected, level } = this;
    if (!selected) return this.update();
    if (!chosen || selected.from !== selected.to) return this.tellCell(null);
    const [here, there] = [level.units[selected.from], level.units[chosen.from]], column = selected.kind === "column";
    const cross = column ? [there.rows[0], here.columns[0]] : [here.rows[0], there.columns[0]];
    this.tellCell(cross.includes(undefined) ? null : cross);
  }

  pin(kind, a, b) {
    this.selected = { kind, from: Math.min(a, b), to: Math.max(a, b) };
    this.update();
  }

  extend(kind, from, to) {
    const { selected } = this;
    if (!selected || selected.kind !== kind) this.anchor = from;
    this.pin(kind, this.anchor ?? from, to);
  }

  toggle(kind, i) {
    const { selected } = this;
    this.anchor = i;
    if (selected && selected.kind === kind && selected.from === i && selected.to === i) this.free();
    else this.pin(kind, i, i);
  }

  free() {
    this.selected = this.hovered = null;
    this.update();
  }

  // Joins the chosen tokens to a span of the reader's own.
  join() {
    const { from, to } = this.selected;
    this.data.custom = this.level.units.flatMap((u, i) => u.places.map(() => (i > from && i <= to ? from : i)));
    this.panel.replaceChildren();
    this.options.level = "custom";
    controls(this, this.panel);
    this.regroup();
    this.text.nodes[this.selected.from].focus();
  }

  // What grows with what is said keeps its height, so that nothing below it moves under the pointer.
  settled() {
    return [this.legend, this.told.parentElement];
  }

  counted() {
    return (i) => this.options.every || this.level.rows[i].counted;
  }

  // Limits given for the whole result hold as long as nobody asks for others.
  matrixScale() {
    const { data, options, level } = this, width = level.columns.length;
    if (options.level === "token" && options.clip === 1 && !options.every && options.index.every((i) => i === null)) return { kind: data.kind, minimum: data.limits[0], maximum: data.limits[1] };
    return scaleOf(data.kind, largest(level.values, options.clip, (i) => this.counted()(Math.floor(i / width))));
  }

  // Scores of each row, or of each column: those of what is chosen, or the mean of all.
  scores() {
    const { level } = this, chosen = this.selected || this.hovered, width = level.columns.length;
    const line = (kind) => (chosen && chosen.kind === kind ? [...new Set(level.units.slice(chosen.from, chosen.to + 1).flatMap((u) => (kind === "column" ? u.columns : u.rows)))] : null);
    const columns = line("column"), rows = line("row"), fold = this.options.rule === "sum" ? sumOf : meanOf;
    const at = (i, j) => level.values[i * width + j];
    if (rows) return { rows, columns: [], along: "columns", values: level.columns.map((_, j) => fold(rows.map((i) => at(i, j)))) };
    if (columns) return { rows: [], columns, along: "rows", values: level.rows.map((_, i) => fold(columns.map((j) => at(i, j)))) };
    return { rows: [], columns: [], along: "rows", values: level.rows.map((_, i) => sumOf(level.columns.map((_, j) => at(i, j))) / width) };
  }

  update() {
    const { level, data, options } = this, found = this.scores(), { along, values } = found, chosen = this.selected || this.hovered;
    const whole = (this.whole ||= this.matrixScale()), many = Math.max(found.rows.length, found.columns.length);
    const own = largest(values, 1, along === "rows" ? this.counted() : everything);
    const scale = many === 1 && options.scale === "matrix" ? whole : scaleOf(data.kind, many ? own : own * CALM);
    const pinned = new Set(chosen ? Array.from({ length: chosen.to - chosen.from + 1 }, (_, i) => chosen.from + i) : []);
    this.text.shade(level.units.map((u) => sumOf(u[along].map((i) => values[i]))), scale, pinned, this.underlines());
    this.drawLegend(scale, whole, many);
    if (this.matrix) this.matrix.show(level, whole, { rows: new Set(found.rows), columns: new Set(found.columns) });
    this.tell(found);
    this.joining.hidden = !(this.selected && this.selected.to > this.selected.from);
    this.settled().forEach((part) => (part.style.minHeight = part.offsetHeight + "px"));
  }

  underlines() {
    const row = this.level.steps.find(([name]) => name === this.options.under), under = {};
    if (!row) return under;
    const [low, high] = this.range(row[1]);
    this.level.units.forEach((unit, i) => {
      const value = meanOf(unit.columns.map((c) => row[1][c]));
      if (isFinite(value)) under[i] = high > low ? Math.round((8 * (value - low)) / (high - low)) : 4;
    });
    return under;
  }

  range(cells) {
    const there = cells.filter(isFinite), low = Math.min(0, ...there), high = Math.max(...there);
    return [low, this.options.under === "probability" ? 1 : high];
  }

  drawLegend(scale, whole, many) {
    const power = exponent(Math.max(-scale.minimum, scale.maximum)), bar = make("span", "bar");
    const low = number(scale.minimum, power), high = number(scale.maximum, power), letter = scale.kind === "diverging" ? "d" : "s";
    for (let i = 0; i < LEVELS; i += 2) bar.append(make("i", letter + i));
    mark(bar, "role", "img");
    mark(bar, "aria-label", `colours from ${low} to ${high}`);
    const rule = many > 1 ? `${this.options.rule} over ${many} chosen tokens` : many ? "the chosen token" : "mean over the output, on a scale of its own";
    const said = [`text: ${rule}${powerSign(power)}`];
    if (scale !== whole) said.push(`matrix: ${exact(whole.minimum)} to ${exact(whole.maximum)}`);
    const cells = exponent(Math.max(-whole.minimum, whole.maximum));
    if (cells) said.push("cells" + powerSign(cells));
    if (this.options.level !== "token") said.push("joined tokens are summed");
    if (this.options.clip < 1) said.push(`strongest colour from the ${Math.round(this.options.clip * 100)} % quantile on`);
    if (this.level.rows.some((row) => !row.counted)) said.push(this.options.every ? "scale with special and first tokens" : "special and first tokens do not stretch the scale");
    const row = this.level.steps.find(([name]) => name === this.options.under);
    if (row) said.push(`underlined: ${row[0]}, ${this.range(row[1]).map((v) => exact(v)).join(" to ")}`);
    this.legend.replaceChildren(make("span", "", low), bar, make("span", "", high), make("span", "", "· " + said.join(" · ")));
  }

  tell({ rows, columns, along, values }) {
    const { level, data } = this, items = level[along === "rows" ? "rows" : "columns"];
    const size = (i) => Math.abs(values[i]);
    const order = [...values.keys()].filter((i) => isFinite(values[i])).sort((a, b) => size(b) - size(a)).slice(0, 5), strongest = size(order[0]) || 1;
    const name = (list, from) => brief(list.map((i) => from[i].label).join(" "));
    const head = rows.length ? `“${name(rows, level.rows)}” influenced` : columns.length ? `“${name(columns, level.columns)}” came from` : this.selected || this.hovered ? "This token" : "Strongest on average";
    const extra = columns.length === 1 ? this.extra(columns[0]) : [];
    const listed = order.map((i) => brief(items[i].label) + " " + exact(values[i])).join(", ");
    this.told.textContent = [`${head}: ${size(order[0]) ? listed : order.length ? "all scores are 0" : "nothing with a number"}`, ...extra].join("; ") + ".";
    this.top.replaceChildren(...order.map((i) => {
      const item = make("li"), bar = make("i", classOf(values[i], scaleOf(data.kind, strongest)));
      bar.style.width = `${(100 * size(i)) / strongest}%`;
      item.append(make("b", "", brief(items[i].label)), make("span", "", exact(values[i])), bar);
      return item;
    }));
  }

  extra(column) {
    const { level, data } = this, share = level.shares[column], { members } = level.columns[column], mean = members.length > 1 ? "mean " : "";
    const said = level.steps.filter(([, cells]) => isFinite(cells[column])).map(([name, cells]) => `${mean}${name} ${exact(cells[column])}`);
    if (share !== undefined && isFinite(share)) said.push(`${mean}source ${Math.round(100 * share)} %, prefix ${Math.round(100 * (1 - share))} %`);
    const others = members.length === 1 && data.alternatives[members[0]];
    if (others && others.length) said.push("most probable: " + others.map(([text, p]) => text + " " + exact(p)).join(", "));
    return said;
  }

  tellCell(cross) {
    if (!cross) return this.update();
    const { level } = this, value = level.values[cross[0] * level.columns.length + cross[1]];
    this.told.textContent = `${brief(level.rows[cross[0]].label)} → ${brief(level.columns[cross[1]].label)}: ${exact(value)}`;
  }
}
