"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const list = $("cards");
  const cards = [...list.children];
  const state = { verdict: "" };

  const keys = {
    file: (card) => Number(card.dataset.order),
    high: (card) => -Number(card.dataset.probability || -1),
    low: (card) => Number(card.dataset.probability || 2),
    regions: (card) => -Number(card.dataset.regions),
  };

  function sort() {
    const key = keys[$("sort").value];
    const order = new Map(cards.map((card) => [card, key(card)]));
    const sorted = [...cards].sort((a, b) => order.get(a) - order.get(b) || a.dataset.order - b.dataset.order);
    list.append(...sorted);
  }

  function filter() {
    const tag = $("tag").value;
    const words = $("words").value.trim().toLowerCase();
    const [low, high] = [Number($("low").value), Number($("high").value || 100)];  // an empty one bounds nothing
    const anyProbability = low === 0 && high === 100;
    let shown = 0;
    for (const card of cards) {
      const data = card.dataset;
      const probability = 100 * Number(data.probability);
      const fits =
        (!state.verdict || data.kind === state.verdict) &&
        (!tag || data.tags.split("|").includes(tag)) &&
        (!words || card.textContent.toLowerCase().includes(words)) &&
        (anyProbability || (data.probability !== "" && probability >= low && probability <= high));
      card.hidden = !fits;
      shown += fits;
    }
    $("shown").textContent = shown === cards.length ? `${shown} shown` : `${shown} of ${cards.length} shown`;
    $("none").hidden = shown > 0;
  }

  for (const button of document.querySelectorAll("button[data-verdict]")) {
    button.addEventListener("click", () => {
      state.verdict = button.dataset.verdict;
      for (const other of document.querySelectorAll("button[data-verdict]"))
        other.setAttribute("aria-pressed", String(other === button));
      filter();
    });
  }
  for (const id of ["tag", "words", "low", "high"]) $(id).addEventListener("input", filter);
  $("sort").addEventListener("input", sort);

  const marked = [];
  function mark(event) {
    for (const element of marked.splice(0)) element.classList.remove("on");
    const target = event.target instanceof Element ? event.target.closest("[data-k]") : null;
    if (!target) return;
    const card = target.closest(".card");
    for (const element of card.querySelectorAll(`[data-k="${target.dataset.k}"]`)) {
      element.classList.add("on");
      marked.push(element);
    }
  }
  list.addEventListener("pointerover", mark);
  list.addEventListener("pointerleave", mark);
  list.addEventListener("focusin", mark);
  list.addEventListener("focusout", mark);

  $("tools").hidden = false;
  filter();
})();
