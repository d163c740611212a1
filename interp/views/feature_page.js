"use strict";
// One file, two views: the table (or map) of all features, and one feature. The part of the address behind # is the
// state, so that a link, a reload and the back button show the same. All text is put in as text, never as HTML.
(() => {
  const { make, draw, written } = interpExamples;
  const state = document.getElementById("state");
  const view = document.getElementById("view");
  const config = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "" };
  config.modeBarButtons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
  const CHUNK = 150; // rows drawn at once; more as one scrolls
  const texts = JSON.parse(document.getElementById("words").textContent);
  const WRITE = {
    number: (v) => String(v),
    score: (v) => signed(v, 2, false),
    rate: (v) => written(100 * v),
    maximum: written,
    effect: (v) => signed(v, 3, true),
    control: (v) => signed(v, 3, true),
    token: (v) => signed(100 * v, 0, false),
  };
  const COLUMNS = Object.entries(texts.columns).map(([key, [head, meaning]]) => [key, head, meaning, WRITE[key] || written]);
  COLUMNS.splice(1, 0, ["label", "label", "a rule that was made from the firings, or what a language model said", null]);
  COLUMNS.push(["tokens", "fires most on", "tokens with most of its activation", null]);
  let table = null;
  let pages = null;
  let places = new Map();

  function signed(value, digits, plus) {
    if (Number.isNaN(value)) return "–";
    const text = value.toFixed(digits);
    if (Number(text) === 0) return text.replace("-", "");
    return (plus && value > 0 ? "+" : "") + text.replace("-", "−");
  }

  async function unpack(name) {
    const block = document.getElementById(`data-${name}`);
    const binary = atob(block.textContent);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const buffer = await new Response(stream).arrayBuffer();
    const whole = new Uint8Array(buffer);
    const end = whole.indexOf(10);
    const head = JSON.parse(new TextDecoder().decode(whole.subarray(0, end)));
    const kinds = { Float32Array, Int32Array, Uint32Array, Uint16Array, Uint8Array };
    for (const [key, one] of Object.entries(head)) {
      if (!Array.isArray(one)) head[key] = new kinds[one.type](buffer, end + 1 + one.at, one.length);
    }
    block.remove(); // the text is not needed twice
    return head;
  }

  const figureOf = (name) => JSON.parse(document.getElementById(`figure-${name}`).textContent);
  const plot = async (place, figure) => {
    place.style.height = `${figure.layout.height || 300}px`;
    await Plotly.newPlot(place, figure.data, figure.layout, { ...config });
  };

  // ---- the address: #/?q=…&sort=rate:desc&filter=rate:1:5, #/map, #/feature/12
  const address = () => {
    const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
    return { parts: path.split("/").filter(Boolean), query: new URLSearchParams(query || "") };
  };
  const to = (path, query) => `#/${path}${query && [...query].length ? `?${query}` : ""}`;
  const keep = (query) => history.replaceState(null, "", to(address().parts.join("/"), query));

  function search(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const weights = [4, 3, 1];
    const found = [];
    table.words.forEach((line, i) => {
      let total = 0;
      let hits = 0;
      for (const word of words) {
        if (!line.includes(word)) continue;
        hits += 1;
        let best = 0;
        line.split("\t").forEach((part, place) => {
          if (part.includes(word)) best = Math.max(best, weights[Math.min(place, 2)] * (` ${part.replace(/[^\p{L}\p{N}]+/gu, " ")} `.includes(` ${word} `) ? 1.5 : 1));
        });
        total += best;
      }
      if (hits) found.push([i, total * (hits / words.length) ** 2 * (words.length > 1 && line.includes(words.join(" ")) ? 2 : 1)]);
    });
    return found.sort((a, b) => b[1] - a[1] || a[0] - b[0]).map(([i]) => i);
  }

  function chosen(query) {
    const text = query.get("q") || "";
    let rows = text.trim() ? search(text) : [...table.number.keys()];
    const [column, low, high] = (query.get("filter") || "").split(":");
    const scale = column === "rate" || column === "token" ? 100 : 1;
    if (column && ArrayBuffer.isView(table[column])) {
      rows = rows.filter((i) => {
        const value = table[column][i] * scale;
        return !Number.isNaN(value) && !(low && value < Number(low)) && !(high && value > Number(high));
      });
    }
    const [by, way] = (query.get("sort") || "").split(":");
    if (by && ArrayBuffer.isView(table[by])) {
      const sign = way === "asc" ? 1 : -1;
      rows.sort((a, b) => {
        const [x, y] = [table[by][a], table[by][b]];
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a - b;
        return sign * (x - y) || a - b;
      });
    }
    return rows;
  }

  function bar(query, onChange) {
    const box = make("input");
    Object.assign(box, { id: "search", type: "search", value: query.get("q") || "", placeholder: "search labels, tokens and examples: capital cities" });
    box.setAttribute("aria-label", "search features");
    let waiting = 0;
    box.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        if (box.value) query.set("q", box.value);
        else query.delete("q");
        onChange();
      }, 150);
    });
    const line = make("div", "bar");
    const label = make("label");
    label.append(box);
    line.append(label);
    return line;
  }

  function filters(query, onChange) {
    const line = make("div", "filters");
    const [column, low, high] = (query.get("filter") || "::").split(":");
    const which = make("select");
    which.setAttribute("aria-label", "filter by");
    for (const [key, head] of COLUMNS.filter(([key]) => ArrayBuffer.isView(table[key]))) {
      const option = make("option", "", head);
      option.value = key;
      which.append(option);
    }
    which.value = column || "rate";
    const ends = [low, high].map((value, i) => {
      const end = make("input");
      Object.assign(end, { type: "number", step: "any", value: value || "", placeholder: i ? "any" : "any" });
      end.setAttribute("aria-label", i ? "at most" : "at least");
      return end;
    });
    const change = () => {
      if (ends[0].value || ends[1].value) query.set("filter", `${which.value}:${ends[0].value}:${ends[1].value}`);
      else query.delete("filter");
      onChange();
    };
    for (const one of [which, ...ends]) one.addEventListener("change", change);
    line.append(make("span", "unit", "only where"), which, make("span", "unit", "is at least"), ends[0], make("span", "unit", "and at most"), ends[1]);
    return line;
  }

  function showTable(query) {
    const list = make("table", "list");
    const head = make("tr");
    const body = make("tbody");
    let rows = [];
    let drawn = 0;
    const end = make("div");
    const more = () => {
      for (const i of rows.slice(drawn, drawn + CHUNK)) {
        const line = make("tr");
        line.tabIndex = 0;
        line.dataset.feature = table.number[i];
        for (const [key, , , write] of COLUMNS) {
          const cell = make("td", write ? "figure" : "", write ? (Number.isNaN(table[key][i]) ? "–" : write(table[key][i])) : table[key][i]);
          if (!write) cell.title = table[key][i];
          line.append(cell);
        }
        body.append(line);
      }
      drawn = Math.min(rows.length, drawn + CHUNK);
    };
    const fill = () => {
      keep(query);
      rows = chosen(query);
      drawn = 0;
      body.replaceChildren();
      more();
      const all = table.number.length;
      const told = rows.length < all ? `${rows.length.toLocaleString("en")} of ${all.toLocaleString("en")} features` : `${all.toLocaleString("en")} features`;
      state.textContent = rows.length ? told : "Nothing fits. Try one word, another spelling, or loosen the filter.";
      const [by, way] = (query.get("sort") || "").split(":");
      for (const cell of head.children) {
        const mine = cell.dataset.key === by;
        cell.setAttribute("aria-sort", mine ? (way === "asc" ? "ascending" : "descending") : "none");
        cell.firstChild.textContent = cell.dataset.head + (mine ? (way === "asc" ? " ▲" : " ▼") : "");
      }
    };
    for (const [key, name, meaning, write] of COLUMNS) {
      const cell = make("th", key === "label" ? "name" : key === "tokens" ? "most" : write ? "figure" : "");
      Object.assign(cell.dataset, { key, head: name });
      cell.scope = "col";
      const button = make(ArrayBuffer.isView(table[key]) ? "button" : "span", "", name);
      button.title = meaning;
      if (button.tagName === "BUTTON") {
        button.type = "button";
        button.addEventListener("click", () => {
          const [by, way] = (query.get("sort") || "").split(":");
          if (by === key && way === "asc") query.delete("sort");
          else query.set("sort", `${key}:${by === key ? "asc" : "desc"}`);
          fill();
        });
      }
      cell.append(button);
      head.append(cell);
    }
    const top = make("thead");
    top.append(head);
    list.append(top, body);
    view.replaceChildren(bar(query, fill), filters(query, fill), list, end);
    new IntersectionObserver((seen) => seen[0].isIntersecting && drawn < rows.length && more()).observe(end);
    fill();
  }

  async function showMap(query) {
    const place = make("div");
    view.replaceChildren(bar(query, () => go(to("", query))), place);
    state.textContent = "Each dot is a feature; click one to open it. Near dots point in like directions, as far as a plane can show.";
    await plot(place, figureOf("map"));
    place.on("plotly_click", (event) => go(to(`feature/${event.points[0].customdata}`)));
  }

  // ---- one feature
  const cut = (text, most = 26) => (text.length > most ? `${text.slice(0, most - 10)}…${text.slice(-9)}` : text);
  const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); // plotly reads labels as HTML
  const row = (array, at, width) => array.subarray(at * width, (at + 1) * width);
  const widthOf = (array) => array.length / table.number.length;
  const nameOf = (number) => (places.has(number) ? table.label[places.get(number)] : "");
  const part = (title, hint, ...inside) => {
    const section = make("section");
    section.append(make("h2", "", title));
    if (hint) section.append(make("p", "hint", hint));
    section.append(...inside);
    return section;
  };
  const links = (numbers, told) => {
    const list = make("ul", "links");
    numbers.forEach((number, i) => {
      if (number < 0) return;
      const line = make("li");
      const link = make("a", "number", String(number));
      link.href = to(`feature/${number}`);
      line.append(link, ` ${nameOf(number)} `, make("span", "unit", told(i)));
      list.append(line);
    });
    return list.children.length ? list : make("p", "note", "none");
  };
  const lying = (name, labels, values, colours) => {
    const figure = figureOf(name);
    const n = labels.length;
    const bars = { ...(figure.data[0] || { type: "bar", orientation: "h" }), x: values, y: [...labels.keys()] };
    delete bars.hovertext;
    bars.hovertext = labels.map((label, i) => `${label}: ${signed(values[i], 3, true)}`);
    bars.marker = { color: colours };
    figure.data = [bars];
    figure.layout.height = 96 + 26 * Math.max(n, 1);
    Object.assign(figure.layout.yaxis, { visible: true, tickvals: [...labels.keys()], ticktext: labels, range: [n - 0.5, -0.5] });
    Object.assign(figure.layout.xaxis, { visible: true });
    figure.layout.annotations = [];
    return figure;
  };

  async function showFeature(number) {
    if (!places.has(number)) {
      view.replaceChildren(make("p", "problem", `There is no feature ${number} in this file; it has ${table.number.length.toLocaleString("en")} of them.`));
      state.textContent = "";
      return;
    }
    if (pages === null) {
      state.textContent = "unpacking the examples…";
      pages = await unpack("pages");
    }
    state.textContent = "";
    const at = places.get(number);
    const n = table.number.length;
    const steps = make("nav", "steps");
    steps.setAttribute("aria-label", "features");
    for (const [id, text, other] of [["previous", "‹ previous", (at - 1 + n) % n], ["next", "next ›", (at + 1) % n]]) {
      const link = make("a", "", text);
      Object.assign(link, { id, href: to(`feature/${table.number[other]}`) });
      steps.append(link);
    }
    const title = make("h1");
    title.append(make("span", "number", `feature ${number} `), table.label[at]);
    const percent = (v) => `${(100 * v).toFixed(0)}%`;
    const known = !Number.isNaN(table.precision[at]) && !Number.isNaN(table.recall[at]);
    const score = make("p", "score", `label's score ${signed(table.score[at], 2, false)} (${texts.meanings["label's score"]})` +
      (known ? ` · of the tokens it names ${percent(table.precision[at])} fire, of those that fire it names ${percent(table.recall[at])}` : "") + ` · named by ${table.by[at]}`);
    const left = make("div", "left");
    const right = make("div", "right");
    const both = make("div", "two");
    both.append(left, right);
    view.replaceChildren(steps, title, score, both);
    drawExamples(left, at);
    await drawNumbers(right, at);
  }

  function drawExamples(place, at) {
    const perFeature = (pages.group_start.length - 1) / table.number.length;
    const groups = [];
    for (let g = 0; g < perFeature; g++) {
      const examples = [];
      for (let e = pages.group_start[at * perFeature + g]; e < pages.group_start[at * perFeature + g + 1]; e++) {
        const [low, high] = [pages.example_start[e], pages.example_start[e + 1]];
        examples.push({
          tokens: Array.from(pages.example_token.subarray(low, high), (t) => pages.vocabulary[t]),
          activations: Array.from(pages.example_shade.subarray(low, high), (s) => (s / 255) * table.maximum[at]),
          peak: pages.example_peak[e],
          value: pages.example_value[e].toFixed(2),
        });
      }
      if (g === 0) {
        groups.push({ level: 2, title: "Strongest examples", hint: texts.hints.top, empty: examples.length ? "" : texts.hints.silent, examples });
        groups.push({ level: 2, title: "Examples by strength", hint: texts.hints.bands, examples: [] });
      } else {
        groups.push({ level: 3, title: texts.bands[g - 1], empty: examples.length ? "" : "too few firings", examples });
      }
    }
    draw(place, { top: table.maximum[at], groups });
  }

  async function drawNumbers(place, at) {
    const list = make("dl", "facts");
    const fact = (name, value) => {
      const term = make(texts.meanings[name] ? "abbr" : "span", "", name);
      if (texts.meanings[name]) Object.assign(term, { title: texts.meanings[name], tabIndex: 0 });
      const head = make("dt");
      head.append(term);
      list.append(head, make("dd", "", value));
    };
    const typical = row(pages.typical_token, at, widthOf(pages.typical_token));
    const shares = row(pages.typical_share, at, widthOf(pages.typical_share));
    fact("fires on", `${written(100 * table.rate[at])}% of tokens (${pages.firings[at].toLocaleString("en")})`);
    fact("strongest, mean", `${written(table.maximum[at])}, ${Number.isNaN(pages.mean[at]) ? "–" : written(pages.mean[at])}`);
    fact("its tokens", Array.from(typical.slice(0, 5), (t, i) => (t < 0 ? "" : `“${pages.vocabulary[t]}” ${(100 * shares[i]).toFixed(0)}%`)).filter(Boolean).join(", ") || "–");
    fact("token alone explains", Number.isNaN(table.token[at]) ? "–" : `${(100 * table.token[at]).toFixed(0)}%`);
    fact("place in the text", `${signed(pages.by_position[at], 2, true)}`);
    fact("later piece of a word", `${signed(pages.by_word[at], 2, true)}`);
    const [mean, low, high] = row(pages.effect, at, 3);
    const count = pages.effect_n[at];
    fact("effect when ablated", count ? `${signed(mean, 3, true)} nats ${Number.isNaN(low) ? "" : `[${signed(low, 3, true)}, ${signed(high, 3, true)}] `}over ${count} firings` : "not measured");
    if (count) fact("control", `${signed(table.control[at], 3, true)} nats`);
    const [histogram, logits, cofiring] = [make("div"), make("div"), make("div")];
    const withFeature = Array.from(row(pages.with_feature, at, widthOf(pages.with_feature)));
    const withPhi = row(pages.with_phi, at, widthOf(pages.with_phi));
    const withCount = row(pages.with_count, at, widthOf(pages.with_count));
    const near = Array.from(row(pages.near_feature, at, widthOf(pages.near_feature)));
    const cosine = row(pages.near_cosine, at, widthOf(pages.near_cosine));
    place.replaceChildren(
      part("In numbers", "", list),
      part("How strongly it fires", "", histogram),
      part("What it says next", texts.hints.logits, logits),
      part("Fires together with", texts.hints.together, cofiring, links(withFeature, (i) => `correlation ${withPhi[i].toFixed(2)}, ${withCount[i].toLocaleString("en")} tokens`)),
      part("Points the same way", texts.hints.near, links(near, (i) => `cosine ${cosine[i].toFixed(2)}`)),
    );
    await plot(histogram, histogramOf(at));
    const words = (array) => Array.from(row(array, at, widthOf(array)));
    const ids = [...words(pages.up_token), ...words(pages.down_token).reverse()];
    const values = [...words(pages.up_logit), ...words(pages.down_logit).reverse()];
    const kept = ids.map((t, i) => i).filter((i) => ids[i] >= 0);
    if (kept.length) {
      const half = words(pages.up_token).length;
      await plot(logits, lying("logits", kept.map((i) => escape(cut(pages.vocabulary[ids[i]].replaceAll(" ", "␣")))), kept.map((i) => values[i]), kept.map((i) => (i < half ? "#0072B2" : "#D55E00"))));
    } else logits.append(make("p", "note", "This site does not write to the residual stream: no logits to read."));
    const firing = withFeature.map((f, i) => i).filter((i) => withFeature[i] >= 0);
    if (firing.length) {
      await plot(cofiring, lying("cofiring", firing.map((i) => escape(`${withFeature[i]} ${cut(nameOf(withFeature[i]))}`)), firing.map((i) => withPhi[i]), firing.map(() => "#009E73")));
    }
  }

  function histogramOf(at) {
    const figure = figureOf("histogram");
    const counts = row(pages.histogram, at, widthOf(pages.histogram));
    const step = table.maximum[at] / counts.length;
    const bars = { ...figure.data[0], type: "bar", width: step * 0.92, marker: { color: "#D55E00" } };
    bars.x = Array.from(counts, (_, i) => (i + 0.5) * step);
    bars.y = Array.from(counts, (c) => c || null);
    bars.hovertext = Array.from(counts, (c, i) => `${written(i * step)} to ${written((i + 1) * step)}: ${c} tokens`);
    const present = Array.from(counts).filter(Boolean);
    const [most, least] = [Math.max(...present, 0), Math.min(...present)];
    const log = present.length > 0 && most / least > 100;
    const titled = (axis, text) => ({ ...axis, visible: present.length > 0, title: { ...(axis.title || {}), text } });
    const y = titled(figure.layout.yaxis, log ? "tokens (log scale)" : "tokens");
    for (const key of ["type", "dtick", "range"]) delete y[key];
    figure.layout.yaxis = log ? { ...y, type: "log", dtick: 1, range: [-0.3, Math.log10(most) + 0.2] } : y;
    figure.layout.xaxis = titled(figure.layout.xaxis, "activation");
    figure.layout.height = present.length ? 260 : 140;
    figure.layout.annotations = present.length ? [] : [{ text: "This feature never fires on this text.", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }];
    figure.data = [bars];
    return figure;
  }

  // ---- what a person does
  const go = (hash) => {
    location.hash = hash.slice(1);
  };
  async function show() {
    const { parts, query } = address();
    const word = parts[0] || "table";
    for (const link of document.querySelectorAll("#menu a")) link.className = link.textContent === word ? "here" : "";
    try {
      if (word === "feature") await showFeature(Number(parts[1]));
      else if (word === "map") await showMap(query);
      else showTable(query);
    } catch (error) {
      state.textContent = "";
      view.replaceChildren(make("p", "problem", `This view could not be shown (${error.message}).`));
      console.error(error);
    }
    document.documentElement.dataset.shown = `${word} ${parts[1] || ""}`.trim();
  }
  addEventListener("hashchange", () => {
    scrollTo(0, 0);
    show();
  });
  addEventListener("click", (event) => {
    const line = event.target.closest && event.target.closest("tr[data-feature]");
    if (line && !getSelection().toString()) go(to(`feature/${line.dataset.feature}`));
  });
  addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" && event.target.dataset && event.target.dataset.feature) {
      event.preventDefault();
      go(to(`feature/${event.target.dataset.feature}`));
    } else if (event.key === "/") {
      event.preventDefault();
      const box = document.getElementById("search");
      if (box) box.focus();
      else go("#/");
    } else {
      const step = { j: "next", k: "previous", ArrowRight: "next", ArrowLeft: "previous" }[event.key];
      const link = step && document.getElementById(step);
      if (link) {
        event.preventDefault();
        go(link.getAttribute("href"));
      }
    }
  });
  unpack("table")
    .then((found) => {
      table = found;
      places = new Map(Array.from(table.number, (number, i) => [number, i]));
      return show();
    })
    .catch((error) => {
      state.className = "problem";
      state.textContent = `This file could not be unpacked (${error.message}); it needs a browser of 2023 or newer.`;
      console.error(error);
    });
})();
