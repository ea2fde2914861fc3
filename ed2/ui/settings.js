// Settings: search, views, folds, and the way from a problem to its field. What is shown follows from a few facts and is
// written as one style sheet, so that it holds for fields that are drawn later too, and no field is ever moved.
window.ed.settings = (() => {
  const state = { view: 'basic', query: '', unfolded: new Set(['run']), revealed: new Set() };
  let facts = { hidden: {}, changed: [], problems: {}, notes: {}, compared: '' };
  let settings = [], basic = []; // all settings in the order of the schema; the names of the basic ones in their order
  const sheet = document.head.appendChild(document.createElement('style'));
  const FRAMES_TO_DRAW = 240; // a tab that is opened for the first time is drawn within a few

  const byId = id => document.getElementById(id);
  const isHere = setting => setting.tab === 'settings';
  const isHidden = name => name in facts.hidden && !(name in facts.problems) && !state.revealed.has(name);
  const synonyms = { vram: 'memory', dim: 'rank', network_dim: 'rank', network_alpha: 'alpha', repeats: 'epochs' }; // of other trainers
  const wordsOf = text => text.toLowerCase().split(/[^\p{L}\p{N}.]+/u).filter(Boolean);

  // 0 is the name itself, 1 a word of name or label, 2 a part of one, 3 a word of the help; none does not match.
  const rankOf = (setting, word) => {
    const named = `${setting.name} ${setting.label}`.toLowerCase();
    if (setting.name === word) return 0;
    if (wordsOf(named.replaceAll('_', ' ')).some(found => found.startsWith(word))) return 1;
    if (named.includes(word)) return 2;
    return wordsOf(setting.help).some(found => found.startsWith(word)) ? 3 : Infinity;
  };
  const found = query => {
    const name = query.trim().toLowerCase().replace(/^--/, '');
    const words = settings.some(setting => setting.name === name) ? [name] : wordsOf(synonyms[name] ?? name);
    const ranked = settings.map(setting => [Math.max(...words.map(word => rankOf(setting, word))), setting]);
    return ranked.filter(([rank]) => rank < Infinity).sort(([a], [b]) => a - b).map(([, setting]) => setting);
  };
  const isTypedIn = name => byId(name)?.contains(document.activeElement) ?? false; // it may pass its default on the way
  const wanted = () => {
    if (state.query.trim()) return found(state.query);
    if (state.view === 'changed') return settings.filter(({ name }) => facts.changed.includes(name) || isTypedIn(name));
    if (state.view === 'basic') return basic.map(name => settings.find(setting => setting.name === name));
    return settings;
  };

  const text = string => JSON.stringify(string).replaceAll('\\n', ' ');
  const flags = () => settings.map(({ name }) =>
    `:is(#${name} .has-info, #${name} .label-text)::after { content: "--${name}" / ""; }`);
  const rulesOf = shown => {
    const rules = flags(), names = shown.map(setting => setting.name);
    for (const { name } of settings.filter(isHere)) {
      const place = names.indexOf(name);
      const block = name === 'resume_ckpt' ? `:is(#${name}, #choose-model)` : `#${name}`;
      rules.push(place < 0 ? `${block} { display: none !important; }` : `${block} { order: ${place}; }`);
    }
    for (const [name, problem] of Object.entries(facts.problems)) {
      rules.push(`#${name}#${name}::after { content: ${text(problem)}; color: var(--ed-bad-text) !important; }`);
      rules.push(`#${name} { --ed-mark: var(--ed-bad); }`);
    }
    for (const [name, note] of Object.entries(facts.notes)) rules.push(`#${name}::after { content: ${text(note)}; }`);
    for (const name of facts.changed) if (!(name in facts.problems)) rules.push(`#${name} { --ed-mark: var(--color-accent); }`);
    return rules;
  };
  const groupRules = shown => [...new Set(settings.filter(isHere).map(setting => setting.group))].flatMap(group => {
    const members = shown.filter(setting => setting.group === group && setting.name !== 'method');
    if (!members.length) return [`#settings-${group} { display: none !important; }`];
    if (state.unfolded.has(group)) return [];
    return [`#settings-${group} > :not(.ed-group-head) { display: none !important; }`, `#settings-${group} { padding-bottom: 0 !important; }`];
  });

  const render = () => {
    const every = wanted(), shown = every.filter(setting => isHere(setting) && !isHidden(setting.name));
    const isGrouped = state.view === 'all' && !state.query.trim();
    const layout = byId('settings-layout');
    if (layout) layout.dataset.look = isGrouped ? 'grouped' : 'flat';
    layout?.toggleAttribute('data-empty', !shown.length);
    sheet.textContent = [...rulesOf(shown), ...(isGrouped ? groupRules(shown) : [])].join('\n');
    tell(every, shown);
    for (const button of document.querySelectorAll('[data-fold]')) {
      button.setAttribute('aria-expanded', state.unfolded.has(button.dataset.fold));
    }
    byId('panel-button')?.setAttribute('aria-expanded', byId('memory-panel').classList.contains('ed-open'));
    const foldAll = byId('fold-all-button');
    if (foldAll) Object.assign(foldAll, { hidden: !isGrouped, textContent: state.unfolded.size > 1 ? 'Fold all' : 'Unfold all' });
  };
  const jumpButton = (setting, why) => {
    const button = Object.assign(document.createElement('button'), { type: 'button', className: 'ed-jump' });
    Object.assign(button.dataset, { setting: setting.name, tab: setting.tab });
    button.textContent = why ? `${setting.label} (${why})` : setting.label;
    return button;
  };
  // What of the search or the changes has no field below: of another tab, or without effect at the moment.
  const tell = (every, shown) => {
    const place = byId('settings-found');
    if (!place) return;
    const query = state.query.trim(), parts = [];
    if (query) parts.push(every.length ? `${every.length} found.` : `No setting matches “${query}”. Try another word.`);
    else if (state.view === 'changed') parts.push(every.length ? `Changed from ${facts.compared}.` : `Nothing differs from ${facts.compared || 'the defaults'}.`);
    const others = query || state.view === 'changed' ? every.filter(setting => !shown.includes(setting)) : [];
    const elsewhere = others.filter(setting => !isHere(setting)), without = others.filter(isHere);
    for (const [title, list] of [['In another tab:', elsewhere], ['Without effect now:', without]]) {
      if (list.length) parts.push(title, ...list.map(setting => jumpButton(setting, facts.hidden[setting.name])));
    }
    place.replaceChildren(...parts.flatMap(part => [part, ' ']));
  };

  // The toolbar stays in view: what it shows now begins below it, wherever the page was scrolled to.
  const showFirst = () => {
    const first = byId(byId('settings-found')?.offsetParent ? 'settings-found' : 'settings-fields');
    const edge = byId('settings-toolbar').getBoundingClientRect().bottom, { top } = first.getBoundingClientRect();
    if (top < edge) window.scrollBy(0, top - edge);
  };

  // To a field: its tab, its view, its group. A tab that is opened for the first time is drawn some frames later.
  const drawn = (name, frames = FRAMES_TO_DRAW) => new Promise(resolve => {
    const look = () => {
      const field = byId(name);
      if (field?.checkVisibility({ visibilityProperty: true })) resolve(field);
      else if (frames-- > 0) requestAnimationFrame(look);
      else resolve(null);
    };
    look();
  });
  const show = name => {
    const setting = settings.find(one => one.name === name);
    if (!setting) return;
    if (isHidden(name)) state.revealed.add(name);
    if (!wanted().includes(setting)) {
      Object.assign(state, { query: '', view: 'all' });
      const search = byId('settings-search');
      search.value = '';
      document.querySelector('[name=settings-view][value=all]').checked = true;
    }
    state.unfolded.add(setting.group);
    render();
  };
  const jump = async (name, tab) => {
    byId('memory-panel')?.classList.remove('ed-open');
    byId(`tab-${tab}-button`).click();
    if (tab === 'settings') {
      await drawn('settings-search');
      show(name);
    }
    const field = await drawn(name);
    if (!field) return;
    field.scrollIntoView({ block: 'center' });
    field.querySelector('input, textarea')?.focus({ preventScroll: true });
    field.classList.remove('ed-jumped');
    requestAnimationFrame(() => field.classList.add('ed-jumped'));
  };

  // What is pressed is listened for in the document: the fields come and go.
  const begin = element => {
    const catalog = JSON.parse(element.querySelector('[data-catalog]').dataset.catalog);
    ({ settings, basic } = catalog);
    render();
  };
  const showFacts = json => {
    if (!json) return;
    facts = JSON.parse(json);
    document.body.classList.toggle('ed-outdated', facts.is_check_outdated);
    render();
  };
  const toggleFold = group => {
    if (!state.unfolded.delete(group)) state.unfolded.add(group);
    render();
  };
  document.addEventListener('input', ({ target }) => {
    if (target.id === 'settings-search') state.query = target.value;
    else if (target.name === 'settings-view') state.view = target.value;
    else return;
    state.revealed.clear();
    render();
    showFirst();
  });
  document.addEventListener('keydown', event => {
    if (event.target.id !== 'settings-search' || event.key !== 'Enter') return;
    const [first] = wanted().filter(setting => isHere(setting) && !isHidden(setting.name));
    if (first) jump(first.name, 'settings');
  });
  document.addEventListener('click', ({ target }) => {
    const button = target.closest?.('button');
    if (!button) return;
    if (button.dataset.setting) jump(button.dataset.setting, button.dataset.tab);
    else if (button.dataset.fold) toggleFold(button.dataset.fold);
    else if (button.id === 'fold-all-button') {
      state.unfolded = state.unfolded.size > 1 ? new Set(['run']) : new Set(settings.map(setting => setting.group));
      render();
    } else if (button.id === 'panel-button') {
      byId('memory-panel').classList.toggle('ed-open');
      render();
    }
  });
  // What stays in view below the strip has to know how high the strip is.
  const watchStrip = new ResizeObserver(([{ target }]) => {
    const { style } = document.documentElement, height = `${target.offsetHeight}px`;
    style.setProperty('--ed-strip', height);
    style.scrollPaddingTop = `calc(${height} + 70px)`; // what gets the focus is not below the strip and the toolbar
    style.scrollPaddingBottom = '80px';
  });
  new MutationObserver((_, observer) => {
    const strip = byId('strip');
    if (strip) { watchStrip.observe(strip); observer.disconnect(); }
  }).observe(document.documentElement, { childList: true, subtree: true });

  return { begin, render, show: showFacts, jump };
})();
