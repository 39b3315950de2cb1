// Chooses light or dark before anything is painted: as the system has it, unless somebody chose here.
(function () {
  try {
    const chosen = localStorage.getItem("tarn-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // Storage may be forbidden; the system's choice stands.
  }
})();
