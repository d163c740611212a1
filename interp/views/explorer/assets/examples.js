"use strict";
// Draws examples: contexts with their tokens shaded by activation. The explorer and the one-file export share it: a
// page of a thousand tokens is a thousand elements, and a component each would take seconds. All text is textContent.
window.interpExamples = (() => {
  const SHADE = "230, 159, 0"; // dark text on it keeps a contrast above 7
  const make = (tag, kind, text) => {
    const element = document.createElement(tag);
    if (kind) element.className = kind;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const written = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));

  // One context: {tokens: [text], activations: [number], peak: index or -1, value: text, link: address or ""}
  const example = (one, top) => {
    const line = make("li");
    line.append(make("span", "value", one.value));
    const text = make("span", "tokens");
    one.tokens.forEach((token, i) => {
      const activation = one.activations[i] || 0;
      const piece = make("span", i === one.peak ? "token peak" : "token", token);
      if (activation > 0 && top > 0) {
        piece.style.backgroundColor = `rgba(${SHADE}, ${(Math.min(activation / top, 1) * 0.9).toFixed(3)})`;
        piece.title = `activation ${written(activation)}`;
      }
      text.append(piece);
    });
    line.append(text);
    if (one.link) {
      const link = make("a", "more", "whole text");
      link.href = one.link;
      link.title = "Show the whole document";
      line.append(link);
    }
    return line;
  };

  // Groups: [{level, title, hint, empty, examples}]
  const draw = (place, data) => {
    place.replaceChildren();
    for (const group of data.groups) {
      if (group.title) place.append(make(`h${group.level}`, "", group.title));
      if (group.hint) place.append(make("p", "hint", group.hint));
      if (group.empty) place.append(make("p", "note", group.empty));
      if (group.examples.length === 0) continue;
      const list = make("ol", "examples");
      for (const one of group.examples) list.append(example(one, data.top));
      place.append(list);
    }
  };
  return { draw, make, written };
})();
