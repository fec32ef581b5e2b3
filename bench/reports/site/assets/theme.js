// Light or dark: as the system says until the button is pressed, which the browser then remembers.
"use strict";
(() => {
  const button = document.getElementById("theme");
  const prefers = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => { try { return localStorage.getItem("slicebench-theme"); } catch { return null; } };
  const show = () => {
    const dark = (stored() ?? (prefers.matches ? "dark" : "light")) === "dark";
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.textContent = dark ? "Light theme" : "Dark theme";
    document.dispatchEvent(new Event("themed"));
  };
  button.addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("slicebench-theme", next); } catch { /* a browser that stores nothing for files */ }
    document.documentElement.dataset.theme = next;
    button.textContent = next === "dark" ? "Light theme" : "Dark theme";
    document.dispatchEvent(new Event("themed"));
  });
  prefers.addEventListener("change", show);
  show();
})();
