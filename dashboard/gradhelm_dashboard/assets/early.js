// Runs before the first paint, as a plain script: the colours first, then the bridge over which
// Dash's controls tell the page's modules their values.

(() => {
  // Mantine's own key, so that its toggle and this agree.
  const chosen = (() => {
    try {
      return localStorage.getItem("mantine-color-scheme-value");
    } catch {
      return null;
    }
  })();
  const system = matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";
  const scheme = chosen === "light" || chosen === "dark" ? chosen : system;
  document.documentElement.setAttribute("data-mantine-color-scheme", scheme);

  const values = new Map();
  window.gradhelmControls = values;
  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    gradhelm: {
      changed(value) {
        const id = window.dash_clientside.callback_context.triggered_id
          ?? window.dash_clientside.callback_context.inputs_list?.[0]?.id;
        values.set(id, value);
        window.dispatchEvent(new CustomEvent("gradhelm:control", { detail: { id, value } }));
        return window.dash_clientside.no_update;
      },
    },
  });
})();
