/** Columns, tables and JSON of the report engine, with made-up fields; test/peers holds real reports against lvs. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { CommandError } from '../../src/cli/messages.ts';
import { formatTime } from '../../src/cli/report/cell.ts';
import { applyOptionLists } from '../../src/cli/report/columns.ts';
import { jsonLines } from '../../src/cli/report/json.ts';
import { rowKind } from '../../src/cli/report/report.ts';
import { type TableFormat, TableWriter } from '../../src/cli/report/table.ts';
import { cellsOf, Lines, makeReport, PLAIN_CELLS, type Values } from './fake-report.ts';

const MIB = 2048;
const ROWS: readonly Values[] = [
  { lv_name: 'b', lv_size: 4 * MIB, lv_tags: ['y', 'x'], lv_count: 10, lv_locked: true, data_percent: 0.001 },
  { lv_name: 'averylongname', lv_size: 12 * MIB, lv_tags: [], lv_count: null, lv_locked: null, data_percent: 100 },
  { lv_name: 'a"\\', lv_size: 0, lv_tags: ['z'], lv_count: 9, lv_locked: false, data_percent: null },
];
const TABLE: TableFormat = {
  headings: 'abbrev',
  separator: ' ',
  aligned: true,
  prefixes: false,
  quoted: true,
  asRows: false,
};

function table(options: string, format: Partial<TableFormat> = {}, keys = 'lv_name'): string[] {
  const report = makeReport({ options, keys });
  return new TableWriter(report.columns, { ...TABLE, ...format }).lines(cellsOf(report, ROWS));
}

describe('tables', () => {
  test('numbers stand right, all else left, the last column is padded', () => {
    assert.deepEqual(table('name,size,tags,count'), [
      'NAME          SIZE   TAGS COUNT',
      'a"\\               0  z        9',
      'averylongname 12.00m           ',
      'b              4.00m x,y     10',
    ]);
  });
  test('a heading wider than its column is cut', () => {
    assert.deepEqual(table('data_percent,lv_major', { headings: 'abbrev' })[0], 'DATA_P MAJ');
  });
  test('full headings', () => {
    assert.equal(table('name,count', { headings: 'full' })[0], 'lv_name       lv_count');
  });
  test('no headings', () => assert.equal(table('name', { headings: 'none' }).length, 3));
  test('separators', () => {
    assert.deepEqual(table('name,size,count', { separator: ',', aligned: false })[2], 'averylongname,12.00m,');
  });
  test('name prefixes', () => {
    const line = table('name,count', { prefixes: true, aligned: false, headings: 'none' })[2];
    assert.equal(line, "LVM2_LV_NAME='b' LVM2_LV_COUNT='10'");
    const plain = table('name', { prefixes: true, quoted: false, aligned: false, headings: 'none' })[2];
    assert.equal(plain, 'LVM2_LV_NAME=b');
  });
  test('columns as rows', () => {
    assert.deepEqual(table('name,count', { asRows: true, aligned: false }), [
      'NAME a"\\ averylongname b',
      'COUNT 9  10',
    ]);
  });
  test('binary fields in words and numbers', () => {
    const report = makeReport({ options: 'lv_locked' });
    const shown = (binary: boolean): string[] =>
      cellsOf(report, ROWS, { ...PLAIN_CELLS, binary }).map((row) => row[0]?.text ?? '');
    assert.deepEqual(shown(false), ['', 'unknown', 'locked']);
    assert.deepEqual(shown(true), ['0', '-1', '1']);
  });
  test('a percentage is 0 or 100 only if it is exactly that', () => {
    assert.deepEqual(table('data_percent', { headings: 'none', aligned: false }), ['', '100.00', '0.01']);
  });
  test('no time is blank', () => {
    assert.equal(formatTime(0), '');
    assert.match(formatTime(1795349543), /^2026-11-\d\d \d\d:\d\d:\d\d [+-]\d{4}$/);
  });
});

function names(keys: string): string[] {
  return table('name', { headings: 'none', aligned: false }, keys);
}

/** The fields that a list of options shows. */
function ids(options: string): string[] {
  return makeReport({ options }).columns.flatMap(({ field, hidden }) => (hidden ? [] : [field.id]));
}

function apply(...lists: readonly string[]): string | undefined {
  return applyOptionLists('lv_name,lv_size', lists, 'lv')?.options;
}

describe('sorting', () => {
  test('by size, downwards', () => assert.deepEqual(names('-size'), ['averylongname', 'b', 'a"\\']));
  test('undefined numbers come last', () => assert.deepEqual(names('count'), ['a"\\', 'b', 'averylongname']));
  test('equal rows keep their order', () => assert.deepEqual(names('time'), ['b', 'averylongname', 'a"\\']));
  test('a key named twice is told', () => {
    const lines = new Lines();
    makeReport({ keys: 'name,-name' }, lines);
    assert.deepEqual(lines.err, ['dm_report: Ignoring duplicate sort field: lv_name.']);
  });
});

describe('columns', () => {
  test('names with and without prefix, case and underscores', () => {
    assert.deepEqual(ids('NAME,lvsize,lv_Tags,,datapercent'), ['lv_name', 'lv_size', 'lv_tags', 'data_percent']);
  });
  test('all is every section of the prefix and whatever the report touches', () => {
    assert.equal(ids('lv_all').length, 10);
    assert.equal(ids('all').includes('vg_name'), false);
    assert.equal(ids('all,vg_name').filter((id) => id === 'vg_name').length, 2);
    assert.deepEqual(ids('seg_all'), ['seg_size']);
  });
  test('unknown names', () => {
    assert.throws(() => ids('lv_name,nosuch'), new CommandError(5, ['Unrecognised field: nosuch']));
    assert.throws(() => makeReport({ keys: 'nosuch' }), new CommandError(5, ['dm_report: Unrecognised field: nosuch']));
  });
  test('lists add up', () => {
    assert.equal(apply(), 'lv_name,lv_size');
    assert.equal(apply('+tags', '-size'), 'lv_name,tags');
    assert.equal(apply('tags', '+name'), 'tags,name');
    assert.equal(apply('-lv_name,size'), '');
    assert.equal(apply(''), undefined);
    assert.equal(applyOptionLists('lv_name', ['#lv_name,x'], 'lv')?.compact, 'lv_name,x');
  });
  test('blank columns can be left out', () => {
    const report = makeReport({ options: 'lv_name,lv_perm,lv_tags' });
    assert.deepEqual(
      report.compacted(cellsOf(report, ROWS), new Lines()).map(({ hidden }) => hidden),
      [false, false, false],
    );
  });
});

describe('what rows are', () => {
  const cases: readonly (readonly [Parameters<typeof rowKind>[0], readonly Parameters<typeof rowKind>[0][], string])[] =
    [
      ['label', ['label'], 'label'],
      ['label', ['label', 'vg'], 'pv'],
      ['label', ['label', 'pv'], 'pv'],
      ['label', ['label', 'lv'], 'pvseg'],
      ['label', ['label', 'seg'], 'pvseg'],
      ['vg', ['vg'], 'vg'],
      ['vg', ['vg', 'lv'], 'lv'],
      ['vg', ['vg', 'seg'], 'seg'],
      ['vg', ['vg', 'label'], 'pv'],
      ['lv', ['lv', 'vg'], 'lv'],
      ['lv', ['lv', 'seg'], 'seg'],
    ];
  for (const [base, sections, kind] of cases) {
    test(`${sections.join(' and ')} in ${base}`, () => assert.equal(rowKind(base, new Set(sections)), kind));
  }
  test('PV and LV fields meet in pvs only', () => {
    const text = 'Can\'t report LV and PV fields at the same time in report type "vg".';
    assert.throws(() => rowKind('vg', new Set(['vg', 'lv', 'pv'] as const)), new CommandError(5, [text]));
  });
});

describe('JSON', () => {
  test("strings, in LVM2's layout", () => {
    const report = makeReport({ options: 'name,count' });
    const rows = cellsOf(report, ROWS);
    assert.deepEqual(jsonLines([[{ name: 'lv', columns: report.columns, rows }]], false), [
      '{',
      '    "report": [',
      '        {',
      '            "lv": [',
      '                {"lv_name":"a\\"\\\\", "lv_count":"9"},',
      '                {"lv_name":"averylongname", "lv_count":""},',
      '                {"lv_name":"b", "lv_count":"10"}',
      '            ]',
      '        }',
      '    ]',
      '}',
    ]);
  });
  test('numbers, nulls and arrays in json_std', () => {
    const report = makeReport({ options: 'name,size,tags,count,locked,data_percent,major' });
    const rows = cellsOf(
      report,
      [
        { lv_name: 'x', lv_size: MIB, lv_tags: ['b', 'a'], lv_count: 3, lv_locked: true, data_percent: 12.5 },
        { lv_name: 'y', lv_size: 0, lv_tags: [], lv_major: { text: '-1', value: null } },
        { lv_name: 'z', lv_size: 0, lv_tags: [], lv_major: { text: 'unmanaged', value: null, strict: 0 } },
      ],
      { ...PLAIN_CELLS, strict: true },
    );
    const parsed: unknown = JSON.parse(jsonLines([[{ name: 'lv', columns: report.columns, rows }]], true).join('\n'));
    assert.deepEqual(parsed, {
      report: [
        {
          lv: [
            {
              lv_name: 'x',
              lv_size: '1.00m',
              lv_tags: ['a', 'b'],
              lv_count: 3,
              lv_locked: 1,
              data_percent: 12.5,
              lv_major: null,
            },
            {
              lv_name: 'y',
              lv_size: '0 ',
              lv_tags: [],
              lv_count: null,
              lv_locked: -1,
              data_percent: null,
              lv_major: -1,
            },
            {
              lv_name: 'z',
              lv_size: '0 ',
              lv_tags: [],
              lv_count: null,
              lv_locked: -1,
              data_percent: null,
              lv_major: 0,
            },
          ],
        },
      ],
    });
  });
});
