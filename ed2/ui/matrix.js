// Samples as a matrix: prompts down, steps (or runs) across, each CFG its own image; and a lightbox for them. Needs nothing
// else of the page. `edMatrix.show(element, data)` draws; see `ed2/ui/matrix.py` for the data.
window.edMatrix = (() => {
  const SIZE = 144; // pixels of a cell's side
  const MAX_ZOOM = 8;
  const MODES = { one: 'One image', both: 'Side by side', slider: 'Before and after' };
  const boards = new WeakMap();
  const escape = text => String(text).replace(/[&<>"']/g, sign => `&#${sign.charCodeAt(0)};`);
  const element = html => { const box = document.createElement('template'); box.innerHTML = html.trim(); return box.content.firstChild; };

  // The lines of the matrix: each prompt once for each of its CFG values that is shown.
  const linesOf = board => board.data.rows.map((row, place) => ({ row, place })).sort((a, b) => a.row.index - b.row.index)
    .flatMap(({ row, place }) => row.cfgs.map((cfg, turn) => ({ row, place, turn, cfg })))
    .filter(line => board.cfg === null || line.cfg === board.cfg);
  const pictureAt = (board, line, column) => board.found.get(`${column} ${line.place} ${line.turn}`);
  const small = (board, picture) => `${board.data.route}/${picture.key}-s.webp`;
  const large = (board, picture) => `${board.data.route}/${picture.key}.webp`;
  const textOf = (line, picture) => picture?.text ?? line.row.prompt;
  const cfgName = cfg => `CFG ${Number(cfg.toPrecision(4))}`;
  const wordsOf = (board, line, column, picture) => `${board.data.columns[column].label}, ${cfgName(line.cfg)}: ${textOf(line, picture)}`;

  const index = board => {
    board.found = new Map();
    board.data.columns.forEach((column, place) => {
      for (const [row, turn, key, text] of column.pictures) board.found.set(`${place} ${row} ${turn}`, { key, text });
    });
  };

  // Drawing. A column is filled while it is near what is seen: a long run has thousands of images.
  const cellHtml = (board, line, column) => {
    const picture = pictureAt(board, line, column);
    if (!picture) return '<div class="ed-cell ed-none"></div>';
    const words = escape(wordsOf(board, line, column, picture));
    return `<button type="button" class="ed-cell" data-cell="${line.place} ${line.turn}" aria-label="${words}">` +
      `<img src="${small(board, picture)}" alt="${words}" loading="lazy" decoding="async"></button>`;
  };
  const fill = (board, part) => {
    const column = Number(part.dataset.column), html = board.lines.map(line => cellHtml(board, line, column)).join('');
    const cells = part.querySelector('.ed-cells');
    if (part.html === html && cells.firstChild) return;
    if (!cells.firstChild || part.kind !== board.kind) cells.innerHTML = html;
    else replaceChanged(cells, board, column); // images that are there stay, and are not loaded again
    part.html = html;
    part.kind = board.kind;
  };
  const replaceChanged = (cells, board, column) => board.lines.forEach((line, place) => {
    const new_ = element(cellHtml(board, line, column)), old = cells.children[place];
    if (!old.isEqualNode(new_)) old.replaceWith(new_);
  });
  const empty = part => { part.querySelector('.ed-cells').replaceChildren(); part.html = ''; };
  const columnHtml = (column, place) =>
    `<div class="ed-column" data-column="${place}"><div class="ed-step-name" title="${escape(column.label)}">${escape(column.label)}</div><div class="ed-cells"></div></div>`;
  const labelHtml = line => `<div class="ed-row-name" title="${escape(line.row.prompt)}"><div class="ed-row-text">` +
    `<strong>${escape(cfgName(line.cfg))}</strong> <p>${escape(line.row.prompt)}</p>` +
    `${line.row.negative ? ` <small>not: ${escape(line.row.negative)}</small>` : ''}</div></div>`;
  const draw = board => {
    const { root, data } = board;
    index(board);
    board.lines = linesOf(board);
    board.kind = JSON.stringify([board.cfg, board.data.rows.map(row => row.cfgs)]);
    const scroller = root.querySelector('.ed-matrix-scroll');
    const isAtEnd = scroller.scrollLeft + scroller.clientWidth >= scroller.scrollWidth - 4;
    const names = root.querySelector('.ed-row-names'), html = board.lines.map(labelHtml).join('');
    if (names.held !== html) { names.innerHTML = html; names.held = html; }
    const strip = root.querySelector('.ed-columns');
    while (strip.children.length > data.columns.length) { board.watcher.unobserve(strip.lastChild); strip.lastChild.remove(); }
    data.columns.forEach((column, place) => {
      const part = strip.children[place];
      if (!part) {
        const made = strip.appendChild(element(columnHtml(column, place)));
        board.watcher.observe(made);
      } else {
        const name = part.firstChild;
        if (name.textContent !== column.label) name.textContent = name.title = column.label;
        if (part.isNear) fill(board, part);
      }
    });
    strip.style.setProperty('--rows', board.lines.length);
    if (isAtEnd) scroller.scrollLeft = scroller.scrollWidth;
    drawHint(board);
    drawTools(board);
    lightbox.follow(board);
  };
  const drawHint = ({ root }) => {
    const scroller = root.querySelector('.ed-matrix-scroll'); // it may have been replaced
    if (!scroller) return;
    scroller.style.setProperty('--bar', `${scroller.offsetHeight - scroller.clientHeight}px`); // its borders, and a scroll bar if there is one
    const hidden = [['rows', scroller.scrollHeight > scroller.clientHeight + 1], ['columns', scroller.scrollWidth > scroller.clientWidth + 1]];
    const names = hidden.filter(([, isCut]) => isCut).map(([name]) => name), hint = root.querySelector('.ed-matrix-hint');
    hint.hidden = !names.length;
    hint.textContent = `Scroll to see all ${names.join(' and ')}.`;
  };
  const drawTools = board => {
    const all = [...new Set(board.data.rows.flatMap(row => row.cfgs))].sort((a, b) => a - b);
    const tools = board.root.querySelector('.ed-matrix-cfgs');
    const html = all.length < 2 ? '' : [null, ...all].map(cfg =>
      `<button type="button" data-cfg="${cfg ?? ''}" aria-pressed="${cfg === board.cfg}">${cfg === null ? 'All CFG' : cfgName(cfg)}</button>`).join('');
    if (tools.held !== html) { tools.innerHTML = html; tools.held = html; }
  };
  const frame = '<div class="ed-matrix-tools" role="toolbar" aria-label="Samples"><span class="ed-matrix-cfgs"></span>' +
    `<label>Size <input type="range" min="72" max="320" step="8" value="${SIZE}"></label></div>` +
    '<div class="ed-matrix-scroll" tabindex="0" role="group" aria-label="Samples: prompts down, steps across">' +
    '<div class="ed-row-heads"><div class="ed-step-name"></div><div class="ed-row-names"></div></div><div class="ed-columns"></div></div>' +
    '<p class="ed-note ed-matrix-hint" hidden></p>';
  const make = root => {
    root.innerHTML = frame;
    const board = { root, data: null, cfg: null, found: new Map(), lines: [] };
    const scroller = root.querySelector('.ed-matrix-scroll');
    board.watcher = new IntersectionObserver(entries => {
      for (const { target, isIntersecting } of entries) {
        target.isNear = isIntersecting;
        if (isIntersecting) fill(board, target); else empty(target);
      }
    }, { root: scroller, rootMargin: '0px 600px' });
    new ResizeObserver(() => drawHint(board)).observe(root.querySelector('.ed-columns'));
    root.addEventListener('input', event => { if (event.target.type === 'range') root.style.setProperty('--cell', `${event.target.value}px`); });
    root.addEventListener('click', event => {
      const cfg = event.target.closest('[data-cfg]')?.dataset.cfg, cell = event.target.closest('[data-cell]');
      if (cfg !== undefined) { board.cfg = cfg === '' ? null : Number(cfg); draw(board); }
      if (!cell) return;
      const [place, turn] = cell.dataset.cell.split(' ').map(Number);
      lightbox.open(board, place, turn, Number(cell.closest('[data-column]').dataset.column));
    });
    return board;
  };
  const show = (root, data) => {
    let board = boards.get(root);
    if (!board || !root.querySelector('.ed-columns')) boards.set(root, board = Object.assign(make(root), { cfg: board?.cfg ?? null }));
    const isFirst = !board.data;
    board.data = data;
    draw(board);
    if (isFirst) requestAnimationFrame(() => { const part = root.querySelector('.ed-matrix-scroll'); part.scrollLeft = part.scrollWidth; });
  };

  // The lightbox: one for the page. `at` is what is looked at, `other` what it is compared with.
  const lightbox = (() => {
    const state = { board: null, at: null, other: null, isTrained: false, mode: 'one', zoom: 1, pan: [0, 0], share: 50 };
    let dialog = null;
    const part = name => dialog.querySelector(`.ed-light-${name}`);
    const lineOf = at => state.board.lines.find(line => line.place === at.place && line.turn === at.turn);
    const pictureOf = at => { const line = lineOf(at); return line && pictureAt(state.board, line, at.column); };
    const button = (act, text, title) => `<button type="button" data-act="${act}" title="${title}">${text}</button>`;
    const build = () => {
      const modes = Object.entries(MODES).map(([name, text]) => `<button type="button" data-mode="${name}">${text}</button>`).join('');
      dialog = element(`<dialog class="ed-lightbox" aria-label="Sample"><header><div class="ed-light-words"></div>` +
        `<button type="button" data-act="close" aria-label="Close" title="Close (Escape)">✕</button></header>` +
        `<div class="ed-light-stage" tabindex="0"></div>` +
        `<label class="ed-light-slider" hidden>Before and after <input type="range" min="0" max="100" value="50"></label>` +
        `<div class="ed-light-tools"><span class="ed-light-modes">${modes}</span><span>` +
        button('left', '←', 'Earlier step (left arrow)') + button('right', '→', 'Later step (right arrow)') +
        button('up', '↑', 'Previous row (up arrow)') + button('down', '↓', 'Next row (down arrow)') +
        button('out', '−', 'Zoom out (-)') + button('in', '+', 'Zoom in (+)') + '</span><span>' +
        button('mark', 'Compare with this', 'Keep this image as the one to compare with') +
        button('trained', 'Training image', 'Compare with the training image that has this caption (T)') +
        button('use', 'Use this step', 'Protect the nearest checkpoint, and choose what to do with it (U)') +
        '<a class="ed-light-download" download title="Download (D)">Download</a></span></div></dialog>');
      document.body.append(dialog);
      dialog.addEventListener('click', event => {
        const { act, mode } = event.target.closest('[data-act], [data-mode]')?.dataset ?? {};
        if (event.target === dialog) dialog.close();
        if (act) acts[act]?.();
        if (mode) setMode(mode);
      });
      dialog.addEventListener('keydown', pressKey);
      dialog.addEventListener('close', () => {
        const { board, at } = state;
        board?.root.querySelector(`[data-column="${at.column}"] [data-cell="${at.place} ${at.turn}"]`)?.focus({ preventScroll: true });
        state.board = null;
      });
      part('slider').addEventListener('input', event => { state.share = Number(event.target.value); place(); });
      const stage = part('stage');
      stage.addEventListener('wheel', event => { event.preventDefault(); zoomBy(event.deltaY < 0 ? 1.2 : 1 / 1.2); }, { passive: false });
      stage.addEventListener('pointermove', event => {
        if (!(event.buttons & 1) || state.zoom === 1) return;
        state.pan = [state.pan[0] + event.movementX, state.pan[1] + event.movementY];
        place();
      });
      stage.addEventListener('dragstart', event => event.preventDefault());
    };
    const place = () => {
      const stage = part('stage');
      stage.style.setProperty('--zoom', state.zoom);
      stage.style.setProperty('--x', `${state.pan[0]}px`);
      stage.style.setProperty('--y', `${state.pan[1]}px`);
      stage.style.setProperty('--share', `${state.share}%`);
    };
    const imageHtml = (source, words, css = '') =>
      `<figure class="${css}"><div class="ed-light-frame"><img src="${source}" alt="${escape(words)}"></div><figcaption>${escape(words)}</figcaption></figure>`;
    const sideOf = at => {
      const picture = pictureOf(at), line = lineOf(at);
      return picture && [large(state.board, picture), `${state.board.data.columns[at.column].label}, ${cfgName(line.cfg)}`];
    };
    const paint = () => {
      const { board, at } = state, line = lineOf(at), picture = pictureOf(at);
      if (!line || !picture) return dialog.close();
      const column = board.data.columns[at.column], { row } = line;
      part('words').innerHTML = `<strong>${escape(column.label)} · ${escape(cfgName(line.cfg))}</strong>` +
        `<p>${escape(textOf(line, picture))}</p><small>${row.negative ? `not: ${escape(row.negative)} · ` : ''}seed ${row.seed} · ` +
        `${row.size[0]} x ${row.size[1]}</small>`;
      const trained = column.trained?.[at.place], isTrained = Boolean(trained && state.isTrained);
      const own = sideOf(at), other = isTrained ? [trained[0], `training image ${trained[1]}`] : sideOf(state.other);
      const isOne = state.mode === 'one' || !other;
      const sides = isOne ? [imageHtml(...own)] : [imageHtml(...other, 'before'), imageHtml(...own, 'after')];
      const stage = part('stage'), html = sides.join('');
      stage.dataset.mode = isOne ? 'one' : state.mode;
      if (stage.held !== html) { stage.innerHTML = html; stage.held = html; }
      part('slider').hidden = stage.dataset.mode !== 'slider';
      for (const one of part('modes').children) one.setAttribute('aria-pressed', one.dataset.mode === state.mode);
      const link = part('download');
      link.href = `${board.data.route}/${picture.key}.png`;
      link.download = `${column.label}-prompt${row.index + 1}-cfg${line.cfg}.png`.replace(/[^\w.-]+/g, '-');
      const offer = dialog.querySelector('[data-act=trained]');
      offer.hidden = !trained;
      offer.setAttribute('aria-pressed', isTrained);
      dialog.querySelector('[data-act=use]').hidden = !board.data.owner || column.step === undefined;
      place();
      return undefined;
    };
    const setMode = mode => { state.mode = mode; paint(); };
    const zoomBy = factor => {
      state.zoom = Math.min(MAX_ZOOM, Math.max(1, state.zoom * factor));
      if (state.zoom < 1.01) Object.assign(state, { zoom: 1, pan: [0, 0] });
      place();
    };
    const goTo = at => { if (pictureOf(at)) { state.at = at; paint(); return true; } return false; };
    const goAcross = way => {
      for (let column = state.at.column + way; state.board.data.columns[column]; column += way) if (goTo({ ...state.at, column })) return;
    };
    const goDown = way => {
      const { lines } = state.board;
      for (let n = lines.indexOf(lineOf(state.at)) + way; lines[n]; n += way) {
        const at = { ...state.at, place: lines[n].place, turn: lines[n].turn };
        if (!pictureOf(at)) continue;
        state.other = { ...state.other, place: at.place, turn: at.turn };
        goTo(at);
        return;
      }
    };
    const tell = (name, detail) => state.board.root.dispatchEvent(new CustomEvent(name, { detail, bubbles: true }));
    const acts = {
      close: () => dialog.close(),
      left: () => goAcross(-1), right: () => goAcross(1), up: () => goDown(-1), down: () => goDown(1),
      in: () => zoomBy(1.5), out: () => zoomBy(1 / 1.5),
      mark: () => { Object.assign(state, { other: { ...state.at }, isTrained: false }); setMode(state.mode === 'one' ? 'both' : state.mode); },
      trained: () => {
        state.isTrained = !state.isTrained;
        setMode(state.isTrained && state.mode === 'one' ? 'both' : state.mode);
      },
      use: () => { const { step } = state.board.data.columns[state.at.column]; tell('ed-use', { step }); dialog.close(); },
      download: () => part('download').click(),
    };
    const KEYS = {
      ArrowLeft: 'left', ArrowRight: 'right', ArrowUp: 'up', ArrowDown: 'down', '+': 'in', '=': 'in', '-': 'out',
      d: 'download', t: 'trained', u: 'use',
    };
    const pressKey = event => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.target.type === 'range' && event.key.startsWith('Arrow')) return;
      const act = KEYS[event.key];
      if (event.key === 'c') setMode({ one: 'both', both: 'slider', slider: 'one' }[state.mode]);
      else if (act && !dialog.querySelector(`[data-act=${act}]`)?.hidden) acts[act]();
      else return;
      event.preventDefault();
    };
    const open = (board, place_, turn, column) => {
      if (!dialog) build();
      const at = { place: place_, turn, column };
      Object.assign(state, { board, at, isTrained: false, mode: 'one', zoom: 1, pan: [0, 0], share: 50 });
      const first = board.data.columns.findIndex((_, n) => pictureAt(board, { place: place_, turn }, n));
      state.other = { ...at, column: first };
      part('slider').querySelector('input').value = 50;
      dialog.showModal();
      paint();
      part('stage').focus();
    };
    const follow = board => { if (state.board === board) paint(); };
    return { open, follow };
  })();

  const mountAll = (within = document) => {
    for (const root of within.querySelectorAll('.ed-matrix[data-matrix]')) {
      const data = JSON.parse(root.dataset.matrix);
      root.removeAttribute('data-matrix');
      show(root, data);
    }
  };
  return { show, mountAll };
})();
