/** LVM2's configuration grammar: what it accepts, what it refuses, and that printing is the inverse of parsing. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { parseConfig } from '../../src/ondisk/config-parser.ts';
import { configLines } from '../../src/ondisk/config-print.ts';
import { FormatError } from '../../src/ondisk/errors.ts';
import type { ConfigNode, ConfigScalar, ConfigValue } from '../../src/ondisk/metadata.ts';
import { decodeText, encodeText } from '../../src/ondisk/text-bytes.ts';
import { sizeComment } from '../../src/ondisk/text-writer.ts';

function int(value: number): ConfigScalar {
  return { kind: 'int', value };
}
function string(value: string): ConfigScalar {
  return { kind: 'string', value };
}
function array(...items: readonly ConfigScalar[]): ConfigValue {
  return { kind: 'array', items };
}
function assign(key: string, value: ConfigValue): ConfigNode {
  return { node: 'value', key, value };
}
function section(key: string, ...children: readonly ConfigNode[]): ConfigNode {
  return { node: 'section', key, children };
}

describe('accepted', () => {
  const cases: readonly (readonly [string, string, ...ConfigNode[]])[] = [
    ['nothing', ''],
    ['only comments', '# one\n # two'],
    ['integers', 'a=1 b = -2\nc=+3', assign('a', int(1)), assign('b', int(-2)), assign('c', int(3))],
    [
      'octal, as strtoll with base 0',
      'a=010 b=00 c=-07',
      assign('a', int(8)),
      assign('b', int(0)),
      assign('c', int(-7)),
    ],
    ['a zero has no sign', 'a=-0', assign('a', int(0))],
    ['the largest exact integer', 'a=9007199254740991', assign('a', int(9007199254740991))],
    [
      'integers beyond 2^53 keep their text',
      'a=-9007199254740993',
      assign('a', { kind: 'float', value: -9007199254740992, text: '-9007199254740993' }),
    ],
    ['floats keep their text', 'a=1.50', assign('a', { kind: 'float', value: 1.5, text: '1.50' })],
    [
      'floats without digits on one side',
      'a=[1.,-.5]',
      assign('a', array({ kind: 'float', value: 1, text: '1.' }, { kind: 'float', value: -0.5, text: '-.5' })),
    ],
    ['strings with escapes', String.raw`a="x\"y\\z\n"`, assign('a', string(String.raw`x"y\z\n`))],
    ['plain strings', String.raw`a='x\"y'`, assign('a', string(String.raw`x\"y`))],
    ['strings over lines, with # and braces', 'a="x\n# {y}"', assign('a', string('x\n# {y}'))],
    [
      'bare words',
      'a = async b=/dev/sda',
      assign('a', { kind: 'word', value: 'async' }),
      assign('b', { kind: 'word', value: '/dev/sda' }),
    ],
    ['empty array', 'a = []', assign('a', array())],
    [
      'arrays with and without commas',
      'a=[1, 2,] b=["x" "y"]',
      assign('a', array(int(1), int(2))),
      assign('b', array(string('x'), string('y'))),
    ],
    ['words in arrays', 'a=[x,y]', assign('a', array({ kind: 'word', value: 'x' }, { kind: 'word', value: 'y' }))],
    ['all on one line', 's{a=1 t{}}b=2', section('s', assign('a', int(1)), section('t')), assign('b', int(2))],
    ['carriage returns and tabs', 's {\r\n\ta = 1\r\n}\r\n', section('s', assign('a', int(1)))],
    ['quoted names', `"a b" { 'c#d' = 1 }`, section('a b', assign('c#d', int(1)))],
    [
      'paths',
      'a/b = 1 /c//d { e = 2 }',
      section('a', assign('b', int(1))),
      section('c', section('d', assign('e', int(2)))),
    ],
    [
      'a path beside its section',
      'a { x = 1 } a/y = 2',
      section('a', assign('x', int(1))),
      section('a', assign('y', int(2))),
    ],
    ['repeated keys stay', 'a=1 a=2', assign('a', int(1)), assign('a', int(2))],
    ['a NUL ends the text', 'a=1\n\0} garbage "', assign('a', int(1))],
    ['a comment without its newline', 'a=1# x', assign('a', int(1))],
    ['names that look like numbers', '5 { -1 = 2 }', section('5', assign('-1', int(2)))],
    [
      'the time that old 32-bit builds spoiled',
      'creation_time = 18446744073709551615',
      assign('creation_time', int(1527120000)),
    ],
    ['only ASCII space separates', 'a\u00a0b=\u00a0', assign('a\u00a0b', { kind: 'word', value: '\u00a0' })],
  ];
  for (const [name, text, ...nodes] of cases) {
    test(name, () => {
      assert.deepEqual(parseConfig(text), nodes);
      assert.deepEqual(parseConfig(Buffer.from(text)), nodes);
      assert.deepEqual(parseConfig(configLines(nodes).join('\n')), nodes);
    });
  }
});

describe('refused', () => {
  const cases: readonly (readonly [string, string, RegExp])[] = [
    ['unclosed section', 'a {\nb = 1\n', /line 3 \(byte 10\): expected "}" for section a, found the end/],
    ['closed twice', 'a { } }', /byte 6\): "}" without a section/],
    ['no value', 'a =', /expected a value for a, found the end/],
    ['section as value', 'a = { }', /expected a value for a, found "{"/],
    ['array in an array', 'a = [[1]]', /expected a value for a, found "\["/],
    ['two commas', 'a = [1,,2]', /expected a value for a, found ","/],
    ['unclosed array', 'a = [1', /expected a value for a, found the end/],
    ['unclosed string', 'a = "x', /string without its closing "/],
    ['string closed by an escaped quote', String.raw`a = "x\"`, /string without its closing "/],
    ['string cut by a NUL', 'a = "x\0"', /string without its closing "/],
    ['unclosed plain string', "a = 'x", /string without its closing '/],
    ['a key alone', 'a b = 1', /expected "{" or "=" after a, found "b"/],
    ['no key', '= 1', /expected a key, found "="/],
    ['no key for a section', '{ }', /expected a key, found "{"/],
    ['empty name', '"" = 1', /empty name/],
    ['path without an end', 'a/ = 1', /empty name/],
    ['octal with decimal digits', 'a = 089', /089 is octal/],
    ['hexadecimal', 'a = 0x10', /the number 0 runs into other text/],
    ['a sign alone', 'a = -', /a sign or point without digits/],
    ['a point alone', 'a = .', /a sign or point without digits/],
    ['deep nesting', 'a {'.repeat(100_000), /nested deeper than 32/],
    ['a deep path', 'a/'.repeat(100_000) + 'b = 1', /nested deeper than 32/],
    ['a deep path in sections', `${'a {'.repeat(20)}${'a/'.repeat(20)}b = 1`, /nested deeper than 32/],
  ];
  for (const [name, text, message] of cases) {
    test(name, () => {
      assert.throws(
        () => parseConfig(text, { device: 'x', offset: 0 }),
        (error) => error instanceof FormatError && message.test(error.message),
      );
    });
  }
});

test('long inputs of one kind take linear time', () => {
  const million = 1_000_000;
  for (const text of [
    '#\n'.repeat(million),
    `a = [${'1,'.repeat(million)}]`,
    `a = "${String.raw`\"`.repeat(million)}"`,
    'a=1 '.repeat(million),
    'a{}'.repeat(million),
  ]) {
    parseConfig(text);
  }
  assert.throws(() => parseConfig('"'.repeat(million)), FormatError);
});

const word = fc.stringMatching(/^[a-zA-Z_/][\w.+/-]{0,8}$/).map((value): ConfigScalar => ({ kind: 'word', value }));
const scalar: fc.Arbitrary<ConfigScalar> = fc.oneof(
  fc.maxSafeInteger().map((value) => int(value === 0 ? 0 : value)),
  fc
    .string({ unit: 'binary' })
    .filter((value) => !value.includes('\0') && value.isWellFormed())
    .map(string),
  word,
  fc
    .stringMatching(/^[-+]?[0-9]{1,6}\.[0-9]{1,6}$/)
    .map((text): ConfigScalar => ({ kind: 'float', value: Number(text), text })),
);
const value: fc.Arbitrary<ConfigValue> = fc.oneof(
  scalar,
  fc.array(scalar, { maxLength: 4 }).map((items): ConfigValue => ({ kind: 'array', items })),
);
const key = fc.oneof(
  fc.stringMatching(/^[a-z_][a-z0-9_]{0,8}$/),
  fc.string({ unit: 'binary', minLength: 1 }).filter((text) => !/[/\0]/.test(text) && text.isWellFormed()),
);
const { node } = fc.letrec<{ node: ConfigNode; leaf: ConfigNode }>((tie) => ({
  leaf: fc.record({ node: fc.constant('value' as const), key, value }, { noNullPrototype: true }),
  node: fc.oneof(
    { depthSize: 'small' },
    tie('leaf'),
    fc.record(
      { node: fc.constant('section' as const), key, children: fc.array(tie('node'), { maxLength: 4 }) },
      { noNullPrototype: true },
    ),
  ),
}));

test('any tree prints to a text that parses to it', () => {
  fc.assert(
    fc.property(fc.array(node, { maxLength: 5 }), (nodes) => {
      const text = configLines(nodes).join('\n');
      assert.deepEqual(parseConfig(text), nodes);
      assert.deepEqual(parseConfig(encodeText(text)), nodes);
    }),
    { numRuns: 500 },
  );
});

test('any text of grammar pieces parses or is refused', () => {
  const piece = fc.constantFrom(
    '{',
    '}',
    '[',
    ']',
    '=',
    ',',
    '"',
    "'",
    '\\',
    '#',
    '\n',
    ' ',
    'a',
    'b/c',
    '1',
    '-',
    '.',
    '0',
    '\0',
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 40 }), (pieces) => {
      try {
        const nodes = parseConfig(pieces.join(''));
        assert.deepEqual(parseConfig(configLines(nodes).join('\n')), nodes);
      } catch (error) {
        assert.ok(error instanceof FormatError, String(error));
      }
    }),
    { numRuns: 3000 },
  );
});

test('texts keep every byte, whatever their encoding', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), fc.string({ unit: 'binary' }), (bytes, text) => {
      const mixed = Buffer.concat([Buffer.from(text), bytes, Buffer.from(text)]);
      assert.deepEqual(encodeText(decodeText(mixed)), mixed);
    }),
    { numRuns: 500 },
  );
  assert.equal(decodeText(Buffer.from('größe 🐧')), 'größe 🐧');
});

test('sizes in comments have six significant digits, halves rounded to even', () => {
  const cases: readonly (readonly [number, string])[] = [
    [0, '# 0 Kilobytes'],
    [1, '# 0.5 Kilobytes'],
    [2048, '# 1024 Kilobytes'],
    [2049, '# 1.00049 Megabytes'],
    [524288, '# 256 Megabytes'],
    [2097152, '# 1024 Megabytes'],
    [2097152 * 1000 + 262144, '# 1000.12 Gigabytes'],
    [2 ** 52, '# 2 Exabytes'],
  ];
  for (const [sectors, comment] of cases) assert.equal(sizeComment(sectors), comment);
});
