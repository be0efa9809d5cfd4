// What a chart shows as a table of text. Pure.

/** A field of a CSV file. What a spreadsheet would take for a formula is kept from it; some take the
 * wide forms of = + - @ for the signs themselves. `flat` is done to text before it is quoted. */
function field(value, flat = (text) => text) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = flat(/^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(value) ? `'${value}` : value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export const csv = ({ head, rows }) => [head, ...rows].map((row) => row.map((value) => field(value)).join(",")).join("\r\n") + "\r\n";

/** The same for a paste into a spreadsheet: a tab or the end of a line in a name would begin another cell. */
const oneCell = (text) => text.replaceAll(/[\t\r\n]+/g, " ");
export const tsv = ({ head, rows }) => [head, ...rows].map((row) => row.map((value) => field(value, oneCell)).join("\t")).join("\n");

/** The line chart: a row for each step, or each bucket of them. */
export function chartTable({ x, global, threshold, clipped, nonfinite, lines, lanes, band, stride }) {
  const spread = band ? ["global_norm_min", "global_norm_max"] : [];
  const head = [
    stride > 1 ? "first_step" : "step", "global_norm", ...spread, "threshold", "clipped", "nonfinite",
    ...lines.map(({ label }) => `norm/${label}`), ...lanes.map(({ name }) => name),
  ];
  const rows = [];
  x.forEach((step, i) => {
    // What was put in where lines break is no step.
    const values = [global[i], threshold[i], ...lines.map(({ raw }) => raw[i]), ...lanes.map(({ raw, values: own }) => (raw ?? own)[i])];
    if (values.every((value) => value === null) && !nonfinite[i]) return;
    const [first, ...rest] = values;
    const bounds = band ? [band.min[i], band.max[i]] : [];
    rows.push([step, first, ...bounds, rest[0], clipped[i], nonfinite[i] ? 1 : 0, ...rest.slice(1)]);
  });
  return { head, rows };
}

/** The layer map: a row for each layer, a column for each step or bucket. */
export function mapTable({ names, order, steps, valueAt }) {
  const head = ["parameter", ...Array.from(steps, (step) => String(step))];
  const rows = order.map((row) => [names[row], ...Array.from(steps, (_, k) => {
    const value = valueAt(k, row);
    return value === null || Number.isFinite(value) ? value : String(value);
  })]);
  return { head, rows };
}
