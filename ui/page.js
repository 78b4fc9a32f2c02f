// What Gradio leaves to the page: the theme switch, the settings button, copying, dropping, keys.
(() => {
  const THEME = "step3-theme";

  const applyTheme = () => {
    const chosen = localStorage.getItem(THEME);
    if (!chosen) return;
    document.body.classList.toggle("dark", chosen === "dark");
    document.documentElement.style.colorScheme = chosen;
    // Gradio's own rule for the body looks at the system only.
    document.body.style.background = "var(--body-background-fill)";
  };

  const actions = {
    theme() {
      const dark = document.body.classList.contains("dark");
      localStorage.setItem(THEME, dark ? "light" : "dark");
      applyTheme();
    },
    settings() {
      document.querySelector("#settings .toggle-button")?.click();
    },
  };

  // Gradio's own copy takes the thinking and the usage line along. A selection also works where the
  // clipboard API does not: on a page that came over plain HTTP from another machine.
  const copyAnswer = (button) => {
    const row = button.closest(".message-buttons").previousElementSibling;
    const contents = [...row.querySelectorAll(".message-content")].filter(
      (content) => !content.closest(".thought-group") && !content.querySelector(".usage"),
    );
    if (!contents.length) return false;
    const selection = getSelection();
    selection.setBaseAndExtent(contents[0], 0, contents.at(-1), contents.at(-1).childNodes.length);
    document.execCommand("copy");
    selection.removeAllRanges();
    button.classList.add("copied");
    setTimeout(() => button.classList.remove("copied"), 1200);
    return true;
  };

  document.addEventListener(
    "click",
    (event) => {
      const action = event.target.closest("[data-action]")?.dataset.action;
      if (action) actions[action]();
      if (event.target.closest("#new-chat, .example") && matchMedia("(hover: hover)").matches) {
        setTimeout(() => document.querySelector("#composer textarea")?.focus());
      }
      const copy = event.target.closest('.message-buttons-left [aria-label="Copy message"]');
      if (copy && copyAnswer(copy)) event.stopPropagation();
    },
    true,
  );

  // Escape stops the answer. An Enter that ends the composition of a CJK word must not send it.
  document.addEventListener(
    "keydown",
    (event) => {
      if (event.isComposing) event.stopPropagation();
      else if (event.key === "Escape") document.querySelector("#composer .stop-button")?.click();
    },
    true,
  );

  // A picture dropped beside the composer would replace the page: it is attached instead.
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (event.target.closest("#composer") || !event.dataTransfer?.files.length) return;
    event.preventDefault();
    const input = document.querySelector("#composer input[type=file]");
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });

  // Gradio puts this script in when the page is up already, and sets the system's theme when it
  // likes: the choice is put back each time.
  applyTheme();
  new MutationObserver(applyTheme).observe(document.body, { attributeFilter: ["class"] });
})();
