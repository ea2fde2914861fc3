// The runs and the queue in the Resume tab.
Object.assign(window.ed, (() => {
  // The queue: which run, and what to do with it.
  const watchQueue = (element, trigger) => element.addEventListener('click', event => {
    const button = event.target.closest('[data-queued]');
    if (button) trigger('click', { queued: Number(button.dataset.queued), action: button.dataset.action });
  });

  return { watchQueue };
})());
