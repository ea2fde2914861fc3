// The runs and the queue in the Resume tab.
Object.assign(window.ed, (() => {
  // The queue: which run, and what to do with it.
  const watchQueue = (element, trigger) => element.addEventListener('click', event => {
    const button = event.target.closest('[data-queued]');
    if (button) trigger('click', { queued: Number(button.dataset.queued), action: button.dataset.action });
  });

  // Charts and samples that came with an answer are drawn.
  const mount = element => { edCharts.mountAll(element); edMatrix.mountAll(element); };
  const watchMounts = element => {
    new MutationObserver(() => mount(element)).observe(element, { childList: true, subtree: true });
    mount(element);
  };

  // The page of a run: what was pressed beside which checkpoint, and the step of which sample is to be used. It is long, and
  // the answer stands above or below it.
  const ANSWERS = { use: 'run-answer', export: 'checkpoint-work', try: 'try-card', delete: 'delete-question' };
  let answer = '';
  const watchRunPage = (element, trigger) => {
    watchMounts(element);
    element.addEventListener('click', event => {
      const button = event.target.closest('[data-act][data-checkpoint]');
      if (!button) return;
      answer = ANSWERS[button.dataset.act];
      trigger('click', { act: button.dataset.act, checkpoint: button.dataset.checkpoint });
    });
    element.addEventListener('ed-use', event => {
      answer = ANSWERS.use;
      trigger('click', { act: 'use', step: event.detail.step });
    });
  };
  const showAnswer = () => requestAnimationFrame(() => document.getElementById(answer)?.scrollIntoView({ block: 'center' }));
  const copyRunPath = () => {
    const path = document.querySelector('#run-page [data-path]')?.dataset.path;
    if (path) ed.copy(path);
  };

  // The list: a filter that needs no answer, and the runs that are to be compared.
  const filterRuns = () => {
    const words = (document.getElementById('runs-filter')?.value ?? '').toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...document.querySelectorAll('#runs-list li')];
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word));
    }
    const none = document.querySelector('#runs-list .ed-none-found');
    if (none) none.hidden = rows.some(row => !row.hidden);
  };
  const FEWEST = 2; // as the program compares
  const picked = new Set();
  const shownPicks = () => {
    const names = [...document.querySelectorAll('#runs-list [data-pick]')].map(box => box.dataset.pick);
    return names.filter(name => picked.has(name));
  };
  const offerComparison = () =>
    document.getElementById('compare-button')?.toggleAttribute('disabled', shownPicks().length < FEWEST);
  const keepPicks = list => {
    for (const box of list.querySelectorAll('[data-pick]')) box.checked = picked.has(box.dataset.pick);
    offerComparison();
  };
  const watchRunFilter = element => {
    element.addEventListener('input', filterRuns);
    const list = document.getElementById('runs-list');
    list.addEventListener('change', event => {
      const { pick } = event.target.dataset;
      if (!pick) return;
      if (event.target.checked) picked.add(pick); else picked.delete(pick);
      offerComparison();
    });
    new MutationObserver(() => { keepPicks(list); filterRuns(); }).observe(list, { childList: true, subtree: true });
  };
  const pickUsedRun = () => {
    const run = document.querySelector('[data-used-run]')?.dataset.usedRun;
    if (run) picked.add(run);
    const list = document.getElementById('runs-list'); // none before the tab was opened
    if (list) keepPicks(list);
    return [];
  };
  const pickedRuns = logdir => [logdir, JSON.stringify(shownPicks())];

  return { watchQueue, watchMounts, watchRunPage, showAnswer, copyRunPath, watchRunFilter, pickUsedRun, pickedRuns };
})());
