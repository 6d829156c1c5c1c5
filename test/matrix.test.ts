// Owns the laws of the matrix: counts, order, uniqueness, and what exclude and include may do.
// Run by jest.
import * as fc from 'fast-check';
import { checkMatrix, countProduct, expandMatrix, isMatch, type Matrix, type Values } from '../domain/matrix';

const axisName = fc.constantFrom('os', 'node', 'arch', 'debug', 'host-tag');
const axisValues = fc.uniqueArray(fc.constantFrom('a', 'b', 'c', '1', '2', '1.10', '', ' '), {
  minLength: 1,
  maxLength: 5,
});
const axes = fc
  .uniqueArray(fc.tuple(axisName, axisValues), { selector: ([name]) => name, minLength: 1, maxLength: 4 })
  .map((list) => list.map(([name, values]) => ({ name, values, at: ['axes', name] })));

/** Patterns over some of the axes, each value one that the axis has. */
function patternsOf(matrix: Pick<Matrix, 'axes'>): fc.Arbitrary<Values[]> {
  const some = matrix.axes.map((axis) => fc.tuple(fc.boolean(), fc.constantFrom(...axis.values)));
  const pattern = fc
    .tuple(...some)
    .map((picks) =>
      Object.fromEntries(
        picks.flatMap(([isNamed, value], at) => (isNamed ? [[matrix.axes[at]?.name ?? '', value]] : [])),
      ),
    )
    .filter((one) => Object.keys(one).length > 0);
  return fc.array(pattern, { maxLength: 5 });
}
const matrices = axes.chain((list) =>
  patternsOf({ axes: list }).map((exclude): Matrix => ({ axes: list, exclude, include: [], at: ['matrix'] })),
);
const isIn = (patterns: readonly Values[], values: Values): boolean =>
  patterns.some((pattern) => isMatch(Object.entries(pattern), values));
const plain = (matrix: Matrix): Matrix => ({ ...matrix, exclude: [], include: [] });
const valuesOf = (matrix: Matrix): Values[] => expandMatrix(matrix).map((cell) => cell.values);

describe('matrix', () => {
  test('P3 without exclude and include there are as many cells as combinations, and no two are the same', () => {
    fc.assert(
      fc.property(matrices, (matrix) => {
        const cells = valuesOf(plain(matrix));
        expect(BigInt(cells.length)).toBe(countProduct(matrix.axes));
        expect(new Set(cells.map((cell) => JSON.stringify(cell))).size).toBe(cells.length);
      }),
    );
  });

  test('P2 cells come in the order of the lists, the last axis varying fastest', () => {
    fc.assert(
      fc.property(matrices, (matrix) => {
        const sizes = matrix.axes.map((axis) => axis.values.length);
        valuesOf(plain(matrix)).forEach((cell, index) => {
          let rest = index;
          for (let at = sizes.length - 1; at >= 0; at -= 1) {
            const { name = '', values = [] } = matrix.axes[at] ?? {};
            expect(cell[name]).toBe(values[rest % values.length]);
            rest = Math.floor(rest / values.length);
          }
        });
      }),
    );
  });

  test('P3 exclude takes away exactly the cells it matches and leaves the order of the others', () => {
    fc.assert(
      fc.property(matrices, (matrix) => {
        const all = valuesOf(plain(matrix));
        expect(valuesOf(matrix)).toEqual(all.filter((values) => !isIn(matrix.exclude, values)));
        expect(checkMatrix(matrix)).toEqual([]);
      }),
    );
  });

  test('P3 include puts its cells at the end, in order, with their parameters; one that exists is a problem', () => {
    fc.assert(
      fc.property(matrices, fc.nat(), (matrix, seed) => {
        const all = valuesOf(plain(matrix));
        const added = all[seed % all.length] ?? {};
        const included = { ...matrix, include: [{ ...added, EXTRA: 'x' }] };
        const isGone = isIn(matrix.exclude, added);
        expect(checkMatrix(included).map((complaint) => complaint.code)).toEqual(isGone ? [] : ['duplicate-cell']);
        if (isGone) {
          const cells = expandMatrix(included);
          expect(cells.slice(0, -1)).toEqual(expandMatrix(matrix));
          expect(cells.at(-1)).toEqual({ values: added, extra: { EXTRA: 'x' } });
        }
      }),
    );
  });

  test('P3 an exclude that no cell can match is a problem at the value that is wrong', () => {
    fc.assert(
      fc.property(matrices, (matrix) => {
        const [axis] = matrix.axes;
        const name = axis?.name ?? '';
        const complaints = checkMatrix({ ...matrix, exclude: [...matrix.exclude, { [name]: 'no such value' }] });
        const at = ['matrix', 'exclude', matrix.exclude.length, name];
        expect(complaints).toEqual([expect.objectContaining({ code: 'no-such-cell', at })]);
      }),
    );
  });

  test('P3 a product of any size is counted exactly without making a cell', () => {
    const huge = Array.from({ length: 16 }, (_, index) => ({
      name: `a${index}`,
      values: Array.from({ length: 1000 }, (__, value) => String(value)),
      at: [],
    }));
    expect(countProduct(huge)).toBe(10n ** 48n);
    expect(countProduct([])).toBe(1n);
  });
});
