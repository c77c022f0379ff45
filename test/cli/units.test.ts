/** Sizes as LVM2 shows and reads them. The expected texts were printed by lvs 2.03.16 (test/peers holds more of them). */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { parseExtentsArgument, parseSizeArgument, SizeError } from '../../src/cli/size-argument.ts';
import { formatSize, parseUnits, readUnits, type SuffixStyle } from '../../src/cli/units.ts';

const KIB = 2;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

function show(sectors: number, unit: string, suffix = true, style: SuffixStyle = 'unit'): string {
  const units = parseUnits(unit);
  assert.ok(units !== null, unit);
  return formatSize(sectors, { units, suffix, style });
}

describe('sizes shown', () => {
  const cases: readonly (readonly [number, string, string])[] = [
    [40 * MIB, 'r', '40.00m'],
    [40 * MIB, 'h', '40.00m'],
    [40 * MIB, 'b', '41943040B'],
    [40 * MIB, 's', '81920S'],
    [40 * MIB, 'S', '81920S'],
    [40 * MIB, 'k', '40960.00k'],
    [40 * MIB, 'M', '41.94M'],
    [40 * MIB, 'g', '0.04g'],
    [40 * MIB, '4m', '10.00U'],
    [40 * MIB, '1m', '40.00m'],
    [1, 'r', '512b'],
    [1, 'R', '512B'],
    [1, 'k', '0.50k'],
    [0, 'r', '0 '],
    [0, 'H', '0 '],
    [0, 'm', '0m'],
    [0, 'b', '0B'],
    [0, '4m', '0U'],
    [GIB, 'r', '1.00g'],
    [2043 * MIB, 'r', '<2.00g'],
    [2043 * MIB, 'h', '2.00g'],
    [220 * GIB - 1, 'r', '<220.00g'],
    [240 * MIB, 'R', '<251.66M'],
    [1023 * MIB + 1023 * KIB, 'r', '<1024.00m'],
    // Exact ties: half of a hundredth rounds to the even digit, as printf does.
    [MIB / 8, 'm', '0.12m'],
    [(3 * MIB) / 8, 'm', '0.38m'],
  ];
  for (const [sectors, unit, expected] of cases) {
    test(`${sectors} sectors in ${unit}`, () => assert.equal(show(sectors, unit), expected));
  }

  test('without suffix, but for human readable units', () => {
    assert.equal(show(40 * MIB, 'm', false), '40.00');
    assert.equal(show(40 * MIB, 'b', false), '41943040');
    assert.equal(show(40 * MIB, 'r', false), '40.00m');
    assert.equal(show(0, 'r', false), '0');
  });

  test('the suffixes of the display commands', () => {
    assert.equal(show(40 * MIB, 'r', true, 'short'), '40.00 MiB');
    assert.equal(show(40 * MIB, 'R', true, 'short'), '41.94 MB');
    assert.equal(show(0, 'r', true, 'short'), '0   ');
    assert.equal(show(1, 'r', true, 'short'), '512 B');
    assert.equal(show(40 * MIB, 'K', true, 'short'), '41943.04 kB');
    assert.equal(show(40 * MIB, 's', true, 'short'), '81920 Se');
    assert.equal(show(40 * MIB, 'r', true, 'long'), '40.00 Mebibyte');
  });

  test('a human readable size is within half a hundredth of its unit', () => {
    const factors: Record<string, number> = {
      k: 1024,
      m: 1024 ** 2,
      g: 1024 ** 3,
      t: 1024 ** 4,
      p: 1024 ** 5,
      e: 1024 ** 6,
    };
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 2 ** 50 }), (sectors) => {
        const match = /^(<?)([\d.]+)([kmgtpe])$/.exec(show(sectors, 'r'));
        assert.ok(match !== null);
        const factor = factors[match[3] ?? ''] ?? Number.NaN;
        const shown = Number(match[2]) * factor;
        assert.ok(Math.abs(shown - sectors * 512) <= factor * 0.005000001);
        assert.equal(match[1] === '<', shown > sectors * 512);
        assert.ok(sectors * 512 >= factor);
      }),
      { numRuns: 300 },
    );
  });
});

describe('units', () => {
  for (const text of ['', 'x', 'mm', 'm1', '3', '0m', '16e', 'm ', '-1m', '1.']) {
    test(`"${text}" is no unit`, () => assert.equal(parseUnits(text), null));
  }
  test('custom units', () => {
    assert.deepEqual(parseUnits('3s'), { letter: 'U', factor: 1536 });
    assert.deepEqual(parseUnits('1.5k'), { letter: 'k', factor: 1536 });
    assert.deepEqual(parseUnits('0.5s'), { letter: 'U', factor: 256 });
    assert.deepEqual(parseUnits('2h'), { letter: 'h', factor: 1 });
  });
  test('the rest of a text is left', () => assert.equal(readUnits('g && x')?.length, 1));
});

describe('sizes typed', () => {
  const cases: readonly (readonly [string, number])[] = [
    ['1', MIB],
    ['1m', MIB],
    ['1M', MIB],
    ['1.5g', 1.5 * GIB],
    ['.5k', 1],
    ['7s', 7],
    ['512b', 1],
    ['2T', 2048 * GIB],
    ['1.0001k', 2],
  ];
  for (const [text, sectors] of cases) {
    test(text, () => assert.deepEqual(parseSizeArgument(text, 'm'), { sign: '', sectors }));
  }
  test("signs are kept, the default unit is the caller's", () => {
    assert.deepEqual(parseSizeArgument('+4', 'k'), { sign: '+', sectors: 8 });
    assert.deepEqual(parseSizeArgument('-1g', 'k'), { sign: '-', sectors: GIB });
  });
  const refused: readonly (readonly [string, string])[] = [
    ['', 'Size requires number argument.'],
    ['m', 'Size requires number argument.'],
    ['+-1', 'Multiple sign symbols detected.'],
    ['1x', "Can't parse size argument."],
    ['.', "Can't parse size argument at '.'."],
    ['1000b', 'Size is not a multiple of 512. Try using 512 or 1024.'],
    ['16e', 'Size is too big (>=16EiB).'],
  ];
  for (const [text, message] of refused) {
    test(`"${text}" is refused`, () => assert.throws(() => parseSizeArgument(text, 'm'), new SizeError(message)));
  }
  test('any text gives a size or a SizeError', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 12 }), (text) => {
        try {
          assert.ok(Number.isSafeInteger(parseSizeArgument(text, 'm').sectors));
        } catch (error) {
          assert.ok(error instanceof SizeError);
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('extents typed', () => {
  test('numbers and percentages', () => {
    assert.deepEqual(parseExtentsArgument('12'), { sign: '', count: 12, percentOf: null });
    assert.deepEqual(parseExtentsArgument('+100%free'), { sign: '+', count: 100, percentOf: 'FREE' });
    assert.deepEqual(parseExtentsArgument('50%PV'), { sign: '', count: 50, percentOf: 'PVS' });
  });
  for (const text of ['', '1.5', '4294967296', '10%', '10%x', '10 %VG']) {
    test(`"${text}" is refused`, () => assert.throws(() => parseExtentsArgument(text), SizeError));
  }
});
