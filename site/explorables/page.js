// The page: its data, its theme, and the four pictures, drawn again where the width changes.

function theme() {
  const dark = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  const node = $("theme");
  const put = (name) => {
    root.dataset.theme = name;
    node.textContent = name === "dark" ? "Light" : "Dark";
    node.setAttribute("aria-label", `Change to ${node.textContent.toLowerCase()} colours`);
    redraw();
  };
  node.addEventListener("click", () => put(root.dataset.theme === "dark" ? "light" : "dark"));
  dark.addEventListener("change", () => put(dark.matches ? "dark" : "light"));
  put(dark.matches ? "dark" : "light");
}

let shows = [];

function redraw() {
  for (const show of shows) show();
}

theme();
requestAnimationFrame(() => setTimeout(() => { // after the first paint
  const data = JSON.parse($("data").textContent);
  shows = [drawADigit, roundNumbers, watchGradients, imagesFromNothing].map((picture) => picture(data));
  redraw();
  let width = document.body.clientWidth;
  new ResizeObserver(() => {
    if (document.body.clientWidth === width) return;
    width = document.body.clientWidth;
    redraw();
  }).observe(document.body);
  document.documentElement.dataset.ready = "yes";
}));
