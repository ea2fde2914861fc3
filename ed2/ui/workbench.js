// The dataset workbench: which images are shown, chosen and selected, and what was typed, is known in the browser. Every
// question to the program carries all of it, so an answer that is late loses nothing.
Object.assign(window.ed, (() => {
  const NARROW = 768;
  const state = {
    marks: [], tag: '', page: 1, // which images are shown
    chosen: '', // the key of the image whose caption is in the box
    ticked: new Set(), // numbers of images, valid for this revision of the list
    revision: '',
    typed: new Map(), // text and turn by key: what the program may not have heard of
    turn: 0,
    drafts: 0, // number of the last draft that the grid shows
    answer: '', // which one the grid shows
    afterTurn: '', // which image to choose once another page is shown
    isInside: false, // whether the grid has the focus
    ask: () => {}, // has the grid drawn anew
    fillBox: () => {}, // has the caption of the chosen image put into the box
  };
  const byId = id => document.getElementById(id);
  const tiles = () => [...document.querySelectorAll('#dataset-grid [data-image]')];
  const chosenTile = () => tiles().find(tile => tile.dataset.image === state.chosen);
  const drawn = () => document.querySelector('#dataset-grid .ed-workbench');
  const unsaved = () => document.querySelector('#caption-unsaved [data-can-save]');
  const box = () => document.querySelector('#caption-text textarea');

  const question = () => JSON.stringify({
    marks: state.marks, tag: state.tag, page: state.page, chosen: state.chosen, revision: state.revision,
    ticked: [...state.ticked], turn: state.turn, drafts: state.drafts,
    typed: Object.fromEntries([...state.typed].map(([key, { text }]) => [key, text])),
  });
  const askGrid = (_, ...held) => [question(), ...held];
  const askFirstPage = (_, ...held) => { state.page = 1; return askGrid(_, ...held); };
  // The program hears of what was typed for the chosen image for the last time: it discards that.
  const askUndo = (_, ...held) => {
    const asked = question();
    state.typed.delete(state.chosen);
    return [asked, ...held];
  };

  // What was typed. The browser's own event tells of it at once, before any key can choose another image.
  const textOf = tile => state.typed.get(tile.dataset.image)?.text ?? tile.dataset.text;
  const enable = (button, isEnabled) => byId(button)?.toggleAttribute('disabled', !isEnabled);
  const enableButtons = (toSave, toUndo) => {
    enable('save-caption-button', toSave);
    enable('undo-caption-button', toUndo);
  };
  const isUnsaved = tile => tile.querySelector('[data-mark=unsaved]') !== null || textOf(tile) !== tile.dataset.text;
  const canUndo = () => {
    const tile = chosenTile();
    return unsaved()?.dataset.savedChange === 'true' || (tile !== undefined && isUnsaved(tile));
  };
  const followUnsaved = () => enableButtons(unsaved()?.dataset.canSave === 'true', canUndo());
  const watchUnsaved = element => {
    new MutationObserver(followUnsaved).observe(element, { childList: true, subtree: true, attributes: true });
    requestAnimationFrame(followUnsaved); // Gradio 6.31 draws the buttons after this
  };
  const textOfChosen = held => { const tile = chosenTile(); return tile ? textOf(tile) : held; };
  const keepTyped = text => {
    const tile = chosenTile();
    if (!tile) return;
    enableButtons(true, true);
    state.typed.set(state.chosen, { text, turn: ++state.turn });
    tile.querySelector('.ed-tile-text').textContent = text || 'no caption';
    tile.classList.toggle('ed-unsaved', text !== tile.dataset.text);
  };

  // Choosing an image.
  const mark = (tile, isChosen) => {
    tile.classList.toggle('ed-chosen', isChosen);
    const button = tile.querySelector('button');
    button.setAttribute('aria-pressed', isChosen);
    button.tabIndex = isChosen ? 0 : -1;
  };
  const showDetails = tile => {
    const place = document.querySelector('#selected-image .ed-selected');
    if (place) place.innerHTML = tile?.dataset.details ?? '';
  };
  const choose = tile => {
    state.chosen = tile.dataset.image;
    for (const other of tiles()) mark(other, other === tile);
    tile.scrollIntoView({ block: 'nearest' });
    showDetails(tile);
    enable('undo-caption-button', canUndo());
    state.fillBox();
  };
  const go = step => {
    const all = tiles(), place = all.indexOf(chosenTile()) + step;
    if (all[place]) return choose(all[place]);
    const page = state.page + Math.sign(step);
    if (page < 1 || page > Number(drawn()?.dataset.pages)) return undefined;
    state.page = page;
    state.afterTurn = step > 0 ? 'first' : 'last';
    return state.ask();
  };

  // Selecting images for a change of many captions.
  const showTicks = () => {
    for (const tile of tiles()) {
      const tick = tile.querySelector('input');
      if (tick) tick.checked = state.ticked.has(Number(tile.dataset.number));
    }
    const clear = document.querySelector('#dataset-grid [data-tick=none]');
    if (!clear) return;
    clear.hidden = !state.ticked.size;
    clear.textContent = `Clear selection (${state.ticked.size})`;
  };
  const tick = (tile, isTicked) => {
    if (!tile.querySelector('input')) return;
    state.ticked[isTicked ? 'add' : 'delete'](Number(tile.dataset.number));
    showTicks();
  };
  const tickAll = isTicked => {
    if (isTicked) JSON.parse(drawn().dataset.numbers).forEach(number => state.ticked.add(number));
    else state.ticked.clear();
    showTicks();
  };

  // The grid after each answer.
  const redrawn = () => {
    const now = drawn();
    if (!now || now.dataset.answer === state.answer) return; // what is changed here in the browser is not a new answer
    state.answer = now.dataset.answer;
    for (const [key, { turn }] of state.typed) if (turn <= Number(now.dataset.turn)) state.typed.delete(key);
    if (state.revision !== now.dataset.revision) state.ticked.clear();
    state.revision = now.dataset.revision;
    state.page = Number(now.dataset.page);
    state.drafts = Number(now.dataset.drafts);
    const all = tiles();
    const wanted = { first: all[0], last: all.at(-1) }[state.afterTurn] ?? chosenTile() ?? all[0];
    state.afterTurn = '';
    showTicks();
    if (!wanted) {
      showDetails();
      return;
    }
    choose(wanted);
    if (state.isInside) wanted.querySelector('button').focus({ preventScroll: true });
  };
  const columns = () => {
    const all = tiles();
    return Math.max(1, all.filter(tile => tile.offsetTop === all[0].offsetTop).length);
  };
  const moves = {
    ArrowRight: () => go(1), ArrowLeft: () => go(-1), ArrowDown: () => go(columns()), ArrowUp: () => go(-columns()),
    Home: () => choose(tiles()[0]), End: () => choose(tiles().at(-1)),
    PageDown: () => go(tiles().length), PageUp: () => go(-tiles().length),
    Enter: () => box().focus(),
    ' ': tile => tick(tile, !state.ticked.has(Number(tile.dataset.number))),
  };
  const pressKey = event => {
    const tile = event.target.closest('[data-image]');
    if (!tile || event.target.matches('input') || !moves[event.key] || event.ctrlKey || event.altKey) return;
    event.preventDefault();
    moves[event.key](tile);
    if (event.key !== 'Enter') chosenTile()?.querySelector('button').focus({ preventScroll: true });
  };
  const pressGrid = event => {
    const button = event.target.closest('button');
    const tile = event.target.closest('[data-image]');
    if (button?.dataset.tick) tickAll(button.dataset.tick === 'all');
    if (button?.dataset.page) {
      state.page = Number(button.dataset.page);
      state.afterTurn = 'first';
      state.ask();
    }
    if (!tile) return;
    if (event.target.matches('input')) { tick(tile, event.target.checked); return; }
    choose(tile);
    if (window.innerWidth < NARROW) byId('selected-image').scrollIntoView({ block: 'start', behavior: 'smooth' });
  };
  const watchGrid = (element, trigger) => {
    state.ask = () => trigger('submit');
    state.fillBox = () => trigger('click');
    new MutationObserver(redrawn).observe(element, { childList: true, subtree: true, attributeFilter: ['data-answer'] });
    element.addEventListener('click', pressGrid);
    element.addEventListener('keydown', pressKey);
    redrawn();
  };
  const watchSelected = element => element.addEventListener('click', event => {
    const step = event.target.closest('[data-step]')?.dataset.step;
    if (step) go(Number(step));
  });

  // Filters and tags.
  const clearSearch = () => {
    const field = document.querySelector('#grid-search input, #grid-search textarea');
    if (!field?.value) return;
    field.value = '';
    field.dispatchEvent(new Event('input', { bubbles: true }));
  };
  const watchChips = (element, trigger) => element.addEventListener('click', event => {
    const pressed = event.target.closest('[data-mark], [data-tag], [data-clear]');
    if (!pressed) return;
    const { mark: name, tag } = pressed.dataset;
    if (name !== undefined) {
      const others = state.marks.filter(one => one !== name);
      state.marks = others.length === state.marks.length ? [...others, name] : others;
    } else if (tag !== undefined) {
      state.tag = state.tag === tag ? '' : tag;
    } else {
      Object.assign(state, { marks: [], tag: '' });
      clearSearch();
    }
    state.page = 1;
    trigger('click');
  });

  // The keys of the caption box. Captions are of one line, so Enter is free.
  const pressInBox = event => {
    if (!event.target.matches('#caption-text textarea')) return;
    const isSave = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 's';
    const step = { Enter: event.shiftKey ? -1 : 1 }[event.key];
    if (!isSave && !step && event.key !== 'Escape') return;
    event.preventDefault();
    event.stopPropagation();
    if (isSave) {
      enableButtons(true, true); // a late answer may be about the caption before the last key
      byId('save-caption-button').click();
    }
    else if (step) go(step);
    else chosenTile()?.querySelector('button').focus();
  };
  document.addEventListener('keydown', pressInBox, true);
  document.addEventListener('input', event => {
    if (event.target.matches('#caption-text textarea')) keepTyped(event.target.value);
  }, true);
  document.addEventListener('focusin', event => { state.isInside = Boolean(event.target.closest('#dataset-grid')); });

  return { askGrid, askFirstPage, askUndo, textOfChosen, watchUnsaved, watchGrid, watchSelected, watchChips };
})());
