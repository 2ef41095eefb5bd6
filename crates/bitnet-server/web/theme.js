// Before the first paint, so that nothing flashes in the wrong colours.
try {
  const { theme } = JSON.parse(localStorage.getItem("bitnet.settings") ?? "{}");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // nothing stored, or nothing may be stored: the system's colours
}
