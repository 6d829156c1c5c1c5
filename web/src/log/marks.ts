// Owns painting the searched text on the visible lines, without touching their DOM (CSS custom highlights).
// Called by log-list.tsx after every draw. Browsers without the feature still mark the whole line of the current match.
const NAME = 'log-search';

interface TextPiece {
  node: Node;
  startChar: number;
}

function piecesOf(line: Element): { pieces: TextPiece[]; text: string } {
  const pieces: TextPiece[] = [];
  let text = '';
  const walker = document.createTreeWalker(line, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node !== null; node = walker.nextNode()) {
    pieces.push({ node, startChar: text.length });
    text += node.textContent ?? '';
  }
  return { pieces, text };
}

function rangeOf(pieces: TextPiece[], startChar: number, endChar: number): Range | null {
  const first = pieces.findLast((piece) => piece.startChar <= startChar);
  const last = pieces.findLast((piece) => piece.startChar < endChar);
  if (first === undefined || last === undefined) return null;
  const range = new Range();
  range.setStart(first.node, startChar - first.startChar);
  range.setEnd(last.node, endChar - last.startChar);
  return range;
}

/** A match may span changes of colour, so it is looked for in the whole text of the line. */
function rangesIn(line: Element, pattern: RegExp): Range[] {
  const { pieces, text } = piecesOf(line);
  return [...text.matchAll(pattern)].flatMap(
    ({ index, 0: found }) => rangeOf(pieces, index, index + found.length) ?? [],
  );
}

/** `pattern` must have the flag g; null paints nothing. */
export function markVisible(scroller: HTMLElement | null, pattern: RegExp | null): void {
  // The type says it is always there; Firefox before 140 lacks it.
  const registry = CSS.highlights as HighlightRegistry | undefined;
  if (registry === undefined || scroller === null) return;
  registry.delete(NAME);
  if (pattern === null) return;
  const ranges = [...scroller.querySelectorAll('.line-text')].flatMap((line) => rangesIn(line, pattern));
  registry.set(NAME, new Highlight(...ranges));
}
