// The theme puts wide tables into boxes that scroll; the keyboard has to reach those, too, while there is more to see.
addEventListener("load", () => {
  const watch = new ResizeObserver((boxes) => {
    for (const { target } of boxes) {
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((box) => watch.observe(box));
});
