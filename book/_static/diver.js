// What pages do beyond reading: a printed page has its answers open and its figures
// light, and on a phone a tap shows a figure that is shrunk there in its own size.
// Nothing here is needed to read the book.
"use strict";

(() => {
  const root = document.documentElement;
  const FOLDED = ".bd-content details:not([open])";
  let opened = [];
  let theme;

  addEventListener("beforeprint", () => {
    theme = root.dataset.theme;
    root.dataset.theme = "light";
    opened = [...document.querySelectorAll(FOLDED)];
    for (const part of opened) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of opened) part.open = false;
    root.dataset.theme = theme;
  });

  // a picture has a version of its own for a phone
  const FIGURES = ".bd-content img:not(.frame-slider img, picture img, a img)";
  const isShrunk = ({ width, naturalWidth }) => width > 0 && naturalWidth > 1.2 * width;
  const mark = () => {
    for (const image of document.querySelectorAll(FIGURES))
      if (isShrunk(image)) image.parentElement.classList.add("shrunk");
  };
  document.addEventListener("load", mark, true); // of each picture, as it comes
  addEventListener("resize", mark);
  document.addEventListener("click", ({ target }) => {
    const box = target.closest?.(".shrunk");
    if (target.matches?.("img") && box && matchMedia("(max-width: 600px)").matches)
      box.classList.toggle("whole");
  });
})();
