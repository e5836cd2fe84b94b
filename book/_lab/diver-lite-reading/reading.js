// What JupyterLab lacks to read this book: a figure gets the alternative text that the
// metadata of its cell hold, a link to a title in another page leads to the title, and
// what is folded looks like something to click.
// Written by hand in the form in which JupyterLab loads an extension: nothing is built.
"use strict";

(() => {
  const NAME = "diver-lite-reading";
  const FOLLOW = "rendermime:handle-local-link"; // JupyterLab's command for links
  const PATIENCE = 120000; // ms until a page that was opened shows its titles

  const BUTTON = `.myst details > summary {
    background: var(--jp-layout-color2);
    border-left: 4px solid var(--jp-brand-color1);
    cursor: pointer;
    padding: 0.3em 0.75em;
  }
  .myst details > summary:is(:hover, :focus-visible) { text-decoration: underline; }`;

  const describe = (app) => {
    for (const { content } of app.shell.widgets("main"))
      for (const cell of content?.widgets ?? []) {
        const alt = cell.model?.getMetadata?.("mystnb")?.image?.alt;
        if (!alt) continue;
        for (const image of cell.node.querySelectorAll(".jp-RenderedImage img"))
          image.alt = alt;
      }
  };

  // jupyterlab-myst opens the page at its top.
  const scrollTo = async (app, path, title) => {
    const end = Date.now() + PATIENCE;
    while (Date.now() < end) {
      const widget = app.shell.currentWidget;
      const text = widget?.node.querySelector(".jp-MarkdownViewer .myst");
      if (text && widget.context.path === path) {
        const target = text.querySelector(`[id="${CSS.escape(title)}"]`);
        if (target) {
          target.scrollIntoView();
          target.animate({ backgroundColor: ["gold", "transparent"] }, 2000);
          return;
        }
      }
      await new Promise((done) => setTimeout(done, 100));
    }
  };

  const activate = (app) => {
    document.head.append(Object.assign(document.createElement("style"), {
      textContent: BUTTON,
    }));
    let due = false;
    const changed = () => {
      if (due) return;
      due = true;
      requestAnimationFrame(() => {
        due = false;
        describe(app);
      });
    };
    new MutationObserver(changed).observe(document.body, {
      childList: true,
      subtree: true,
    });
    app.commands.commandExecuted.connect((_, { id, args }) => {
      if (id === FOLLOW && args.id) scrollTo(app, args.path, args.id.slice(1));
    });
  };

  const plugin = { id: `${NAME}:plugin`, autoStart: true, activate };
  window._JUPYTERLAB ??= {};
  window._JUPYTERLAB[NAME] = {
    init() {},
    get: async () => () => ({ __esModule: true, default: plugin }),
  };
})();
