// Where panels stand: in a grid of twelve columns, as the config says, or in rows that are filled.

const COLUMNS = 12;
const DEFAULTS = { number: [3, 1], pie: [4, 2] };
const OTHERS = [6, 2];

/** Places the panels: those without a column in rows, in their order; what is left of a row is shared out. */
export function arrange(panels) {
  let row = [];
  const room = () => COLUMNS - row.reduce((sum, one) => sum + one.width, 0);
  const flush = () => {
    const free = row.filter((one) => !one.fixed);
    // Each gets a column of what is left in turn, the first ones first.
    for (let at = 0; free.length && room() > 0; at += 1) free[at % free.length].width += 1;
    const height = Math.max(0, ...row.map((one) => one.height));
    for (const one of row) place(one.panel, one.width, one.panel.config.height ?? height);
    row = [];
  };
  for (const panel of panels) {
    const { config } = panel;
    const [width, height] = DEFAULTS[config.chart] ?? OTHERS;
    const wanted = { panel, width: config.width ?? width, height: config.height ?? height, fixed: config.width !== null };
    if (config.column) {
      place(panel, wanted.width, wanted.height);
      continue;
    }
    if (wanted.width > room()) flush();
    row.push(wanted);
  }
  flush();
}

function place(panel, width, height) {
  const { config, box } = panel;
  const values = { "--w": width, "--h": height, "--c": config.column ?? "auto", "--r": config.row ?? "auto" };
  for (const [name, value] of Object.entries(values)) box.style.setProperty(name, value);
  box.classList.toggle("placed", Boolean(config.column));
}
