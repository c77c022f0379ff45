/** The grammar of -S and what it selects; test/peers holds it against lvs. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { CommandError } from '../../src/cli/messages.ts';
import { compileRegex } from '../../src/lvm/dm-regex.ts';
import { parseTimeRange } from '../../src/cli/report/time.ts';
import { Lines, makeReport, selected, type Values } from './fake-report.ts';

const MIB = 2048;
const ROWS: readonly Values[] = [
  {
    lv_name: 'a',
    lv_size: 4 * MIB,
    lv_tags: ['x', 'y'],
    lv_count: 1,
    lv_locked: true,
    lv_perm: 'writeable',
    lv_ahead: 8,
  },
  {
    lv_name: 'b',
    lv_size: 8 * MIB,
    lv_tags: ['x'],
    lv_count: 2,
    lv_locked: false,
    lv_perm: 'read-only',
    data_percent: 50,
  },
  {
    lv_name: 'long name',
    lv_size: 2048 * MIB,
    lv_tags: [],
    lv_count: null,
    lv_locked: null,
    lv_ahead: { text: 'auto', value: 4294967295 },
    lv_major: { text: '-1', value: -1 },
  },
];

function refusal(criteria: string): string {
  try {
    makeReport({ selection: criteria });
  } catch (error) {
    assert.ok(error instanceof CommandError);
    return error.lines[0] ?? '';
  }
  throw new assert.AssertionError({ message: `${criteria} was taken` });
}

describe('criteria', () => {
  const cases: readonly (readonly [string, readonly string[]])[] = [
    ['', ['a', 'b', 'long name']],
    ['all', ['a', 'b', 'long name']],
    ['lv_name=a', ['a']],
    ['NAME = a', ['a']],
    ['name="long name"', ['long name']],
    ["name='long name'", ['long name']],
    ['name!=a', ['b', 'long name']],
    ['name=~^l', ['long name']],
    ['name!~"[ab]"', []],
    ['name!~[ab]', ['a', 'b', 'long name']],
    ['name=~(a|b)', ['a', 'b', 'long name']],
    ['size=4', ['a']],
    ['size>=8m', ['b', 'long name']],
    ['size<1g', ['a', 'b']],
    ['size=8192s', ['a']],
    ['size=.0078125g', ['b']],
    ['count>1', ['b']],
    ['count=undefined', ['long name']],
    ['count!=-1', ['a', 'b']],
    ['major=unknown', ['a', 'b', 'long name']],
    ['major>5', []],
    ['ahead=auto', ['long name']],
    ['ahead>1s', ['a']],
    ['tags=x', ['a', 'b']],
    ['tags=[x]', ['b']],
    ['tags=[x,y]', ['a']],
    ['tags=[y&&x]', ['a']],
    ['tags={y,x}', ['a']],
    ['tags={x}', ['a', 'b']],
    ['tags={y||z}', ['a']],
    ['tags!={y||z}', ['b', 'long name']],
    ['tags=""', ['long name']],
    ['locked=locked', ['a']],
    ['locked=yes', ['a']],
    ['locked=no', ['b']],
    ['locked=0', ['b']],
    ['locked=unknown', ['long name']],
    ['perm=rw', ['a']],
    ['data_percent>=50', ['b']],
    ['data_percent=50%', ['b']],
    ['data_percent!=1', ['b']],
    ['name=a||name=b', ['a', 'b']],
    ['name=a # name=b && count=1', ['a']],
    ['(name=a || name=b) , count=2', ['b']],
    ['!(name=a)', ['b', 'long name']],
    ['!(name=a || !(count=2))', ['b']],
  ];
  for (const [criteria, names] of cases) {
    test(criteria === '' ? 'none' : criteria, () => assert.deepEqual(selected(criteria, ROWS), names));
  }

  const refused: readonly (readonly [string, string])[] = [
    ['nosuch=1', 'Unrecognised selection field: nosuch'],
    ['=1', 'Expecting field name'],
    ['name', 'Unrecognised comparison operator: '],
    ['name=a b', 'Expecting logical operator'],
    ['!name=a', "Syntax error: left parenthesis expected at 'name=a'"],
    ['(name=a', "Syntax error: right parenthesis expected at ''"],
    ['name="a', 'Missing end quote.'],
    ['name>a', 'Operator can be used only with number, size, time or percent fields: name>a'],
    ['size since x', 'Operator can be used only with time fields: size since x'],
    ['size=~4', 'dm_report: incompatible comparison type for selection field lv_size'],
    ['name=~[', 'Missing end quote.'],
    ['size=x', 'Failed to parse numeric value for selection field lv_size.'],
    ['count=1k', 'Found size unit specifier but numeric value expected for selection field lv_count.'],
    ['size=5%', 'Found percent value but size value expected for selection field lv_size.'],
    ['data_percent=101', 'Field selection value 101 out of supported range for field data_percent.'],
    ['tags=[x', 'Invalid operator in selection list.'],
    ['tags=[x}', "List ended with incorrect character, expecting ']'."],
    ['tags=[x,y||z]', 'Only one type of logical operator allowed in selection list at a time.'],
    ['help=1', 'Selection field is uncomparable: help.'],
    ['time=2026-13', 'Specified month out of range.'],
  ];
  for (const [criteria, message] of refused) {
    test(`${criteria} is refused`, () => assert.equal(refusal(criteria), message));
  }

  test('fields of other reports make the report theirs', () => {
    assert.equal(makeReport({ selection: 'seg_size>1' }).kind, 'seg');
    assert.equal(refusal('pv_name=x'), 'Can\'t report LV and PV fields at the same time in report type "lv".');
  });

  test('help is printed to stderr', () => {
    const lines = new Lines();
    assert.ok(makeReport({ selection: 'help' }, lines).helped);
    assert.ok(lines.err.includes('Selection operators'));
    assert.equal(lines.out.length, 0);
  });

  test('any criteria select or are refused', () => {
    const word = fc.constantFrom(
      'name',
      'size',
      'tags',
      '=',
      '!=',
      '=~',
      '>',
      '(',
      ')',
      '[',
      '{',
      '}',
      ']',
      '&&',
      ',',
      '#',
      '!',
      '"',
      'a',
      '4m',
      '@1',
      ' ',
    );
    fc.assert(
      fc.property(fc.array(word, { maxLength: 12 }), (parts) => {
        try {
          selected(parts.join(''), ROWS);
        } catch (error) {
          assert.ok(error instanceof CommandError);
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe('regular expressions', () => {
  const cases: readonly (readonly [string, string, boolean])[] = [
    ['lv.1', 'xlv01', true],
    ['^lv', 'xlv', false],
    ['[a-c]+$', 'abc', true],
    ['[^a]', 'aaa', false],
    ['a{2}', 'aa', false],
    ['a{2}', 'a{2}', true],
    ['\\.', 'a', false],
    ['x|y', 'y', true],
    ['[]a]', ']', true],
    ['\\d', 'd', true],
  ];
  for (const [pattern, text, expected] of cases) {
    test(`${pattern} on ${text}`, () => assert.equal(compileRegex(pattern)?.test(text), expected));
  }
  for (const pattern of ['[a', '(', '\\', '*'])
    test(`${pattern} is none`, () => assert.equal(compileRegex(pattern), null));
});

function at(year: number, month: number, day = 1, hour = 0, minute = 0, second = 0): number {
  return new Date(year, month - 1, day, hour, minute, second).getTime() / 1000;
}

describe('times', () => {
  const now = at(2026, 11, 22, 15, 30, 10);
  const cases: readonly (readonly [string, number, number | null])[] = [
    ['2026', at(2026, 1), at(2027, 1) - 1],
    ['2026-02', at(2026, 2), at(2026, 3) - 1],
    ['202602', at(2026, 2), at(2026, 3) - 1],
    ['2026-02-28', at(2026, 2, 28), at(2026, 3) - 1],
    ['20260228', at(2026, 2, 28), at(2026, 3) - 1],
    ['2026-12-31 23', at(2026, 12, 31, 23), at(2027, 1) - 1],
    ['2026-11-22 12:20', at(2026, 11, 22, 12, 20), at(2026, 11, 22, 12, 21) - 1],
    ['2026-11-22 1220', at(2026, 11, 22, 12, 20), at(2026, 11, 22, 12, 21) - 1],
    ['2026-11-22 12:20:02', at(2026, 11, 22, 12, 20, 2), null],
    ['2026-11-22 12:20:02 +02:00', Date.UTC(2026, 10, 22, 10, 20, 2) / 1000, null],
    ['2026-11-22 12:20:02 -0130', Date.UTC(2026, 10, 22, 13, 50, 2) / 1000, null],
    ['today', at(2026, 11, 22), at(2026, 11, 23) - 1],
    ['yesterday', at(2026, 11, 21), at(2026, 11, 22) - 1],
    ['yesterday noon', at(2026, 11, 21, 12), null],
    ['3 weeks ago', at(2026, 11, 1), at(2026, 11, 2) - 1],
    ['12hours ago', now - 12 * 3600 - 3601, now - 12 * 3600],
    ['1 month ago', at(2026, 10, 22), at(2026, 10, 23) - 1],
    ['24 Feb 2015', at(2015, 2, 24), at(2015, 2, 25) - 1],
    ['2015 February', at(2015, 2), at(2015, 3) - 1],
    ['Feb 24', at(2026, 2, 24), at(2026, 2, 25) - 1],
    ['Friday', at(2026, 11, 20), at(2026, 11, 21) - 1],
    ['Nov 22 2026 10:30', at(2026, 11, 22, 10, 30), at(2026, 11, 22, 10, 31) - 1],
    ['Monday 5 PM', at(2026, 11, 16, 17), at(2026, 11, 16, 18) - 1],
  ];
  for (const [text, from, to] of cases) {
    test(text, () => assert.deepEqual(parseTimeRange(text, now), { range: { from, to } }));
  }
  const refused: readonly (readonly [string, string])[] = [
    ['2026-02-30', 'Specified day out of range.'],
    ['99', 'Incorrect date format.'],
    ['2026-11-22 25:00', 'Specified hours out of range.'],
    ['2026 12:00', 'Full date specification needed.'],
    ['someday', 'Unrecognized string in date/time specification at "someday".'],
  ];
  for (const [text, problem] of refused) {
    test(`${text} is refused`, () => assert.deepEqual(parseTimeRange(text, now), { problems: [problem] }));
  }
});
