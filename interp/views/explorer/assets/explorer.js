"use strict";
// What a page does without asking the server: keys, and an address that follows the table. The address is changed in
// place where the page itself shows the change already, so that the server does not draw it again.
(() => {
  const go = (href) => {
    history.pushState({}, "", href);
    dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
    scrollTo(0, 0);
  };
  const root = () => document.querySelector("a.brand")?.getAttribute("href") || "/"; // a proxy may put a prefix there
  const remember = (changes) => {
    const address = new URL(location.href);
    for (const [name, value] of Object.entries(changes)) {
      if (value) address.searchParams.set(name, value);
      else address.searchParams.delete(name);
    }
    history.replaceState(history.state, "", address);
    for (const tab of document.querySelectorAll("main .choices a.choice")) {
      if (!("q" in changes)) continue;
      const link = new URL(tab.href);
      if (changes.q) link.searchParams.set("q", changes.q);
      else link.searchParams.delete("q");
      tab.setAttribute("href", link.pathname + link.search);
    }
  };
  const grid = async () => {
    try {
      return await dash_ag_grid.getApiAsync("grid");
    } catch {
      return null;
    }
  };

  // What Dash says of a failed request goes to the console alone: say it on the page.
  const tell = (text) => {
    const place = document.getElementById("trouble");
    if (!place || place.textContent === text) return;
    place.textContent = text;
    place.hidden = !text;
  };
  // While a page is made it takes no more writing: what is written now would be gone when the new page stands there.
  const making = ([, options]) => typeof options?.body === "string" && options.body.includes('"output":"..page.children');
  let made = 0;
  const hold = (change) => {
    made += change;
    const page = document.getElementById("page");
    if (page) page.inert = made > 0;
  };
  const send = window.fetch;
  window.fetch = async (...request) => {
    const waits = making(request);
    if (waits) hold(1);
    try {
      const answer = await send(...request);
      if (answer.status < 400) tell("");
      else if (answer.status === 403) tell((await answer.clone().text()).trim().slice(0, 200));
      else tell(`The explorer failed at this (${answer.status}); the terminal it runs in says why. Reload the page to go on.`);
      return answer;
    } catch (error) {
      if (error.name !== "AbortError")
        tell("The explorer does not answer: it was closed, or is busy. Start it again with interp explore, then reload.");
      throw error;
    } finally {
      if (waits) hold(-1);
    }
  };

  // What is typed in the search box goes round Dash's Input, which puts the cursor back after every letter and so mixes up
  // those of a fast typist: here it is told once, when the typing pauses.
  let pause;
  for (const kind of ["input", "change"]) {
    addEventListener(kind, (event) => {
      if (event.target.id !== "search") return;
      event.stopPropagation();
      clearTimeout(pause);
      const told = () => event.target.isConnected && dash_clientside.set_props("search-text", { data: event.target.value });
      pause = setTimeout(told, 250);
    }, true);
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    explorer: {
      searched: async (text, path) => {
        if ((new URL(location.href).searchParams.get("q") || "") === (text || "")) return dash_clientside.no_update;
        remember({ q: text });
        const table = !path || path === root() || path === `${root()}features` ? await grid() : null;
        if (table) table.purgeInfiniteCache();
        else go(location.pathname + location.search);
        return "";
      },
      arranged: (columns, filters) => {
        const sorted = (columns || []).filter((one) => one.sort).sort((a, b) => (a.sortIndex || 0) - (b.sortIndex || 0))[0];
        const changes = {};
        if (columns) changes.sort = sorted ? `${sorted.colId}:${sorted.sort}` : "";
        if (filters) changes.filter = Object.keys(filters).length ? JSON.stringify(filters) : "";
        remember(changes);
        return dash_clientside.no_update;
      },
      examples: (data, id) => {
        const place = document.getElementById(JSON.stringify(id, Object.keys(id).sort()));
        if (place && data) interpExamples.draw(place, data);
        return dash_clientside.no_update;
      },
      dot: (click) => {
        const number = click && click.points && click.points[0] && click.points[0].customdata;
        if (number !== undefined && number !== null) go(`${root()}feature/${number}`);
        return dash_clientside.no_update;
      },
    },
  });

  const rowOf = (target) => {
    const row = target.closest && target.closest(".ag-center-cols-container .ag-row");
    const cell = row && row.querySelector('[col-id="number"]');
    const number = cell && Number.parseInt(cell.textContent, 10);
    return Number.isInteger(number) ? number : null;
  };
  addEventListener("click", (event) => {
    const inside = event.target.closest && event.target.closest(".drawn a");
    if (inside && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
      event.preventDefault();
      go(inside.getAttribute("href"));
      return;
    }
    const number = rowOf(event.target);
    if (number !== null && !getSelection().toString()) go(`${root()}feature/${number}`);
  });
  // An empty prompt asks nothing: the box says so, and the press goes no further.
  const refuse = (event) => {
    const button = event.target.closest && event.target.closest('button[id$="-go"]');
    const boxes = button ? button.closest(".form, .two, .box").querySelectorAll("textarea.prompt") : [];
    const empty = [...boxes].find((box) => !box.value.trim());
    if (!empty) return;
    event.stopPropagation();
    empty.setCustomValidity("Write a prompt first.");
    empty.addEventListener("input", () => empty.setCustomValidity(""), { once: true });
    empty.reportValidity();
  };
  addEventListener("click", refuse, true);
  addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && target.matches && target.matches("textarea.prompt")) {
      document.getElementById(target.id.replace("-text", "-go")).click();
      return;
    }
    const writes = target.matches && target.matches("input, textarea, select, [contenteditable]");
    if (writes || event.ctrlKey || event.metaKey || event.altKey) return;
    const number = event.key === "Enter" ? rowOf(target) : null;
    if (number !== null) {
      event.preventDefault();
      go(`${root()}feature/${number}`);
      return;
    }
    const search = document.getElementById("search");
    if (event.key === "/") {
      event.preventDefault();
      if (search) search.focus();
      else go(root());
      return;
    }
    const inGrid = target.closest && target.closest(".ag-root");
    const step = { j: "next", k: "previous", ArrowRight: "next", ArrowLeft: "previous" }[event.key];
    const link = step && !inGrid && document.getElementById(step);
    if (link) {
      event.preventDefault();
      go(link.getAttribute("href"));
    }
  });
})();
