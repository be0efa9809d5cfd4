// Cells of the table of runs, as the grid wants them: React components found by name. A plain
// script, because they must be there before the grid is. Everything shown is a text child.

(() => {
  const cells = (window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {});
  const h = (...args) => window.React.createElement(...args);
  const WORDS = {
    live: ["Live", "radio"],
    stale: ["Stale", "clock"],
    failed: ["Failed", "octagon-x"],
    finished: ["Finished", "circle-check"],
    stopped: ["Stopped", "circle-stop"],
  };
  const write = () => window.gradhelmNumbers;
  const bar = (share, tone) =>
    h("span", { className: "bar" }, h("span", { className: tone, style: { width: `${Math.min(100, share * 100)}%` } }));

  cells.GradhelmStatus = ({ data }) => {
    const [word, icon] = WORDS[data.status] || [data.status, "info"];
    return h("span", { className: `chip ${data.status}` }, h("span", { className: `icon icon-${icon}` }), word);
  };
  cells.GradhelmRun = ({ data }) => {
    const told = data.status === "live" ? null : data.status_reason;
    return h("span", { className: "run-cell" },
      h("a", { href: `/runs/${encodeURIComponent(data.id)}`, className: "run-name", title: data.name, tabIndex: -1 }, data.name),
      h("span", { className: `run-sub ${told ? data.status : ""}`, title: told || data.project }, told || data.project));
  };
  cells.GradhelmProgress = ({ data }) => {
    const share = data.total_steps && data.last_step !== null ? (data.last_step + 1) / data.total_steps : null;
    return h("span", { className: "bar-cell" },
      share === null ? null : bar(share, data.status === "live" ? "accent" : "still"),
      h("span", { className: "num" }, data.last_step === null ? "no step yet" : write().count(data.last_step)));
  };
  cells.GradhelmNorm = ({ data }) =>
    data.last_step !== null && data.norm_finite === false
      ? h("span", { className: "num bad-text" }, "NaN/Inf")
      : h("span", { className: "num" }, write().norm(data.global_norm));
  cells.GradhelmThreshold = ({ value }) => h("span", { className: "num" }, write().threshold(value));
  cells.GradhelmSteps = ({ value }) => h("span", { className: "num" }, write().count(value));
  cells.GradhelmClip = ({ value }) =>
    h("span", { className: "bar-cell" },
      h("span", { className: "num clip-number" }, write().percent(value)), value ? bar(value, "clip") : null);
  cells.GradhelmHeard = ({ data }) =>
    h("time", { dateTime: data.last_heard_at, title: new Date(data.last_heard_at).toLocaleString(), className: "muted" },
      data.last_heard_at ? write().ago(Date.parse(data.last_heard_at), Date.now()) : "–");

  cells.GradhelmSparkline = ({ value, data }) => {
    const points = value || [];
    const known = points.filter((v) => v !== null && v > 0);
    if (known.length < 2) return h("span", { className: "faint" }, "–");
    // Logarithmic, as a norm is looked at; the middle nine tenths decide the range.
    const logs = known.map(Math.log10).sort((a, b) => a - b);
    const low = logs[Math.floor(logs.length * 0.02)];
    const high = Math.max(logs[logs.length - 1], low + 0.05);
    const [width, height] = [160, 28];
    let path = "";
    let pen = "M";
    points.forEach((v, i) => {
      if (v === null || !(v > 0)) {
        pen = "M";
        return;
      }
      const x = (i / (points.length - 1)) * width;
      const y = height - 3 - Math.max(0, Math.min(1, (Math.log10(v) - low) / (high - low))) * (height - 6);
      path += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = "L";
    });
    return h("svg", { className: `spark ${data.status}`, viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      h("path", { d: path, vectorEffect: "non-scaling-stroke" }));
  };
})();
