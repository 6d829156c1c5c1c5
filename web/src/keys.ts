// Owns the keyboard: single-key commands and moving the focus among the links marked data-item.
// Called by the shell (for all pages) and by pages with commands of their own.
import { useEffect, useRef } from 'preact/hooks';

export type KeyMap = Record<string, (event: KeyboardEvent) => void>;

const isTyping = (target: EventTarget | null): boolean =>
  target instanceof HTMLElement && (target.matches('input, textarea, select') || target.isContentEditable);

/** Runs `keys[event.key]` unless the user types, holds a modifier, or a dialog is open. */
export function useKeys(keys: KeyMap): void {
  const current = useRef(keys);
  current.current = keys;
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const command = current.current[event.key];
      if (command === undefined || event.defaultPrevented || isTyping(event.target)) return;
      if (event.metaKey || event.ctrlKey || event.altKey || document.querySelector('dialog[open]') !== null) return;
      command(event);
    };
    document.addEventListener('keydown', onKey);
    return () => document.removeEventListener('keydown', onKey);
  }, []);
}

const items = (): HTMLElement[] => [...document.querySelectorAll<HTMLElement>('main [data-item]')];

const isFocusedItem = (): boolean =>
  document.activeElement instanceof HTMLElement && document.activeElement.matches('[data-item]');

function focusStep(step: 1 | -1): void {
  const all = items();
  const at = all.indexOf(document.activeElement as HTMLElement);
  const next = at === -1 ? (step === 1 ? 0 : all.length - 1) : at + step;
  all[next]?.focus();
}

/** The nearest item in the next row above or below, so that arrows walk a grid as the eye does. */
function focusRow(step: 1 | -1): void {
  const from = document.activeElement?.getBoundingClientRect();
  if (from === undefined) return;
  let best: { item: HTMLElement; distance: number } | null = null;
  for (const item of items()) {
    const to = item.getBoundingClientRect();
    const rows = (to.top - from.top) * step;
    if (rows < from.height / 2) continue;
    // A row further away loses to any item of a nearer row.
    const distance = rows * 1_000 + Math.abs(to.left - from.left);
    if (best === null || distance < best.distance) best = { item, distance };
  }
  best?.item.focus();
}

/** Arrows act only once an item has the focus; before, they scroll the page as always. */
function onArrow(event: KeyboardEvent, move: () => void): void {
  if (!isFocusedItem()) return;
  event.preventDefault();
  move();
}

export const ITEM_KEYS: KeyMap = {
  j: () => focusStep(1),
  k: () => focusStep(-1),
  ArrowRight: (event) => onArrow(event, () => focusStep(1)),
  ArrowLeft: (event) => onArrow(event, () => focusStep(-1)),
  ArrowDown: (event) => onArrow(event, () => focusRow(1)),
  ArrowUp: (event) => onArrow(event, () => focusRow(-1)),
};

/** `/` goes to the filter or search field of the page. */
export const FIND_KEYS: KeyMap = {
  '/': (event) => {
    const field = document.querySelector<HTMLInputElement>('[data-find]');
    if (field === null) return;
    event.preventDefault();
    field.focus();
    field.select();
  },
};
