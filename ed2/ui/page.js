// What the page does in the browser itself. Python names these functions where it connects the controls; what a
// browser alone knows is in `ed.store`, and nowhere else.
window.ed = (() => {
  const store = {
    answeredAt: 0, // when the program last answered, in milliseconds
    isFilled: false, // whether the form shows the saved settings: before that nothing it holds is sent
    turn: 0, // number of the form that was sent last
    json: { shown: '', applied: '', sent: '' }, // the raw JSON as shown, as applied, and as last sent to be applied
    tensorboard: null, // the window that was opened for it
  };
  const unchanged = { __type__: 'update' };
  const byId = id => document.getElementById(id);
  const runCards = () => [...document.querySelectorAll('#runs-list [data-run]')];

  // A late answer: a field that was changed since the question was asked stays as it is. The question carries what
  // the fields held and the answer brings it back, since the next question may be asked before this answer is taken.
  const ask = places => (_, ...held) => [JSON.stringify(places.map(place => held[place])), ...held];
  const take = isWhole => (answer, ...held) => {
    const { asked, offered } = JSON.parse(answer);
    const before = JSON.parse(asked || '[]');
    const isKept = held.map((value, n) => JSON.stringify(value) !== JSON.stringify(before[n]));
    const keepAll = isWhole && isKept.some(Boolean);
    return offered.map((value, n) => (keepAll || isKept[n] ? unchanged : value));
  };

  // A tab or fold that is opened for the first time. Gradio 6.31 draws its fields, and a frame later sets each of them to
  // the value that it had, over what was typed meanwhile: they are shown once that has happened.
  const FRAMES_UNTIL_SET = 3;
  const showWhenSet = (block, frames = FRAMES_UNTIL_SET) => {
    block.toggleAttribute('data-ed-new', frames > 0);
    if (frames > 0) requestAnimationFrame(() => showWhenSet(block, frames - 1));
  };
  const watchNewBlocks = () => new MutationObserver(records => {
    const added = records.flatMap(record => [...record.addedNodes]).filter(node => node instanceof Element);
    for (const node of added) {
      for (const block of [node, ...node.querySelectorAll('.block')]) if (block.matches('.block')) showWhenSet(block);
    }
  }).observe(document.documentElement, { childList: true, subtree: true });
  watchNewBlocks();

  // The form. Until it is filled nobody can type in it, since that would be overwritten; and until the program has told the
  // state, `page.css` hides what depends on it.
  const lockForm = () => { byId('tabs').inert = true; };
  const unlockForm = () => {
    byId('tabs').inert = false;
    byId('tabs').dataset.known = '';
  };
  const formFilled = () => { store.isFilled = true; };
  // Two forms may be on their way at once; the number tells the program which one is newer.
  const numberForm = (_, ...held) => [store.isFilled ? ++store.turn : 0, ...held];
  // The raw JSON follows the form, but what a person typed there and did not apply stays.
  const followForm = (current, raw) => {
    const field = document.querySelector('#raw-json textarea');
    const isTyped = raw ? raw !== store.json.shown && raw !== store.json.applied : field && field === document.activeElement;
    if (isTyped) return unchanged;
    Object.assign(store.json, { shown: current, applied: '' });
    return current;
  };
  const sendJson = raw => { store.json.sent = raw; };
  const jsonApplied = () => { store.json.applied = store.json.sent; };
  const copy = text => { navigator.clipboard?.writeText(text); };

  // Without this the last state would stay on screen for ever after the program is gone. It asks nobody.
  const answered = () => { store.answeredAt = Date.now(); };
  const watchProgram = () => {
    answered();
    ed.watchProgress();
    setInterval(() => {
      if (document.hidden) answered();
      const isGone = Date.now() - store.answeredAt > 12000;
      byId('strip').classList.toggle('ed-gone', isGone);
      document.body.classList.toggle('ed-no-program', isGone);
      // What was typed can still be copied, so only what asks the program for something is locked.
      for (const row of document.querySelectorAll('#strip-buttons, .ed-actions')) row.inert = isGone;
    }, 2000);
  };

  // Tabs and fields that a link leads to. A field of a tab that was not open yet is drawn a moment later.
  const goTo = (name, field) => {
    [...document.querySelectorAll('#tabs [role=tab]')].find(tab => tab.textContent.trim() === name)?.click();
    window.scrollTo({ top: 0 });
    if (field) focusField(field);
  };
  const focusField = (field, tries = 40) => {
    const input = byId(field)?.querySelector('input, textarea, button');
    openPanel(input?.closest('#memory-panel'));
    if (!input?.checkVisibility({ visibilityProperty: true })) return tries && setTimeout(focusField, 50, field, tries - 1);
    if (field === 'resume_ckpt') openFold('choose-model');
    input.scrollIntoView({ block: 'center' });
    input.focus({ preventScroll: true });
  };
  const openPanel = panel => { // on a phone it is closed
    panel?.classList.add('ed-open');
    panel?.querySelector('#panel-button')?.setAttribute('aria-expanded', 'true');
  };
  const openFold = (id, tries = 40) => { // in the browser, since the program does not know what was closed by hand
    const button = byId(id)?.querySelector('button.label-wrap');
    if (!button) return tries && setTimeout(openFold, 50, id, tries - 1);
    if (!button.classList.contains('open')) button.click();
    button.scrollIntoView({ block: 'center' });
  };
  const watchLinks = element => element.addEventListener('click', event => {
    const link = event.target.closest('[data-tab]');
    if (link) goTo(link.dataset.tab, link.dataset.field);
  });
  // The button of the first screen leads to the first thing that is missing, else the program starts the run.
  const goToMissing = (...held) => {
    document.querySelector('#missing [data-tab]')?.click();
    return held;
  };

  // The table of prompts. Gradio 6.31 loses the first key that is typed into a cell, and adds the others to what it holds.
  const typed = new Map(); // what was typed into a cell whose box is not there yet
  const writeTyped = (cell, tries = 60) => {
    const box = cell.querySelector('textarea, input');
    if (!box && tries) return requestAnimationFrame(() => writeTyped(cell, tries - 1));
    const text = typed.get(cell);
    typed.delete(cell);
    if (!box) return undefined;
    box.value = text;
    return box.dispatchEvent(new Event('input', { bubbles: true }));
  };
  document.addEventListener('keydown', event => {
    const cell = event.target.closest?.('#prompts [role=gridcell]');
    if (!cell || event.target.matches('textarea, input') || event.key.length > 1 || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const before = typed.get(cell);
    typed.set(cell, (before ?? '') + event.key);
    if (before !== undefined) return;
    cell.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', bubbles: true }));
    writeTyped(cell);
  }, true);

  // Folders and models: with a key named `path` Gradio 6.31 would take it for a file of its own.
  const watchFolders = (element, trigger) => element.addEventListener('click', event => {
    const button = event.target.closest('[data-location]');
    if (button) trigger('click', { location: button.dataset.location });
  });

  // The list of runs.
  const watchRuns = (element, trigger) => element.addEventListener('click', event => {
    const card = event.target.closest('[data-run]');
    if (!card) return;
    markRun(card.dataset.run);
    trigger('click');
  });
  const markRun = name => runCards().forEach(card => card.classList.toggle('ed-chosen', card.dataset.run === name));
  const pressedRun = chosen => document.querySelector('#runs-list .ed-chosen')?.dataset.run ?? chosen;
  // The run that the list offers, unless another one was chosen since the list was asked for.
  const offeredRun = chosen => {
    const list = document.querySelector('#runs-list ul');
    if (!list) return null;
    const isNewChoice = chosen !== list.dataset.asked && runCards().some(card => card.dataset.run === chosen);
    return isNewChoice ? chosen : list.dataset.offered;
  };

  // TensorBoard. The window is opened by the press itself: a browser blocks one that opens seconds later.
  const openTensorBoard = logdir => {
    const opened = store.tensorboard = window.open('', '_blank');
    if (opened) {
      opened.opener = null;
      opened.document.title = opened.document.body.textContent = 'Starting TensorBoard …';
    }
    return logdir;
  };
  const showTensorBoard = html => {
    const link = /href="([^"]+)"/.exec(html);
    if (link && store.tensorboard) store.tensorboard.location = link[1];
  };
  const closeTensorBoard = () => { store.tensorboard?.close(); };

  return {
    store, ask, take, lockForm, unlockForm, formFilled, numberForm, followForm, sendJson, jsonApplied, copy, answered,
    watchProgram, watchLinks, goToMissing, watchFolders, watchRuns, markRun, pressedRun, offeredRun,
    openFold, openTensorBoard, showTensorBoard, closeTensorBoard,
  };
})();
