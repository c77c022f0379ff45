/** The handshake machine against the wire facts 1-12 and 33: exact replies, however the bytes are cut. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { MemoryDevice } from '../../src/block/memory.ts';
import { Handshake, type HandshakeOutcome } from '../../src/nbd/handshake.ts';
import { finalReply, greeting } from '../../src/nbd/option-replies.ts';
import { ALLOCATION, listed, makeExport, resizable, TestDirectory } from './exports.ts';
import { clientFlags, ERR, everySplit, option, optionReplies, query, type OptionReply } from './wire.ts';

const OPT = {
  exportName: 1,
  abort: 2,
  list: 3,
  starttls: 5,
  info: 6,
  go: 7,
  structured: 8,
  listMeta: 9,
  setMeta: 10,
  extended: 11,
};
const ACK = 1;
const META = 4;
const SERVER = 2;
const INFO = 3;

interface Conversation {
  readonly bytes: Buffer;
  readonly outcome: HandshakeOutcome | null;
}

function converse(chunks: readonly Buffer[], directory = new TestDirectory([makeExport()])): Conversation {
  const handshake = new Handshake(directory);
  const sent: Buffer[] = [];
  let outcome: HandshakeOutcome | null = null;
  for (const chunk of chunks) {
    if (outcome !== null) break;
    const step = handshake.receive(chunk);
    sent.push(...step.replies);
    ({ outcome } = step);
    if (outcome?.kind === 'negotiated') sent.push(...finalReply(outcome.negotiated));
  }
  return { bytes: Buffer.concat(sent), outcome };
}

/** The replies to options sent after agreeing to fixed newstyle and NO_ZEROES, in one chunk. */
function ask(options: readonly Buffer[], directory?: TestDirectory): OptionReply[] {
  return optionReplies(converse([Buffer.concat([clientFlags(), ...options])], directory).bytes);
}

/** Types of the replies to one option; checks that every error has a text and that the machine goes on. */
function typesOf(bytes: Buffer, directory?: TestDirectory): number[] {
  const all = ask([bytes, option(OPT.abort)], directory);
  const abort = all.pop();
  assert.deepEqual([abort?.option, abort?.type], [OPT.abort, ACK], 'the options after it are still understood');
  for (const reply of all) {
    assert.equal(reply.option, bytes.readUInt32BE(8), 'the option is echoed');
    if (reply.type < 2 ** 31) continue;
    const text = new TextDecoder('utf-8', { fatal: true }).decode(reply.payload);
    assert.ok(text.length > 0 && reply.payload.length <= 4096, 'an error says why');
  }
  return all.map((reply) => reply.type);
}

function closes(chunk: Buffer, directory?: TestDirectory): string {
  const { outcome } = converse([chunk], directory);
  assert.equal(outcome?.kind, 'close');
  return outcome.kind === 'close' ? outcome.reason : '';
}

/** The payload of LIST and SET; lengths may lie. */
function contexts(name: string, queries: readonly string[], lies: { count?: number; last?: number } = {}): Buffer {
  const parts = [name, ...queries].map((text, i) => {
    const bytes = Buffer.alloc(4 + Buffer.byteLength(text));
    bytes.writeUInt32BE(i > 0 && i === queries.length ? (lies.last ?? bytes.length - 4) : bytes.length - 4);
    bytes.write(text, 4);
    return bytes;
  });
  const count = Buffer.alloc(4);
  count.writeUInt32BE(lies.count ?? queries.length);
  return Buffer.concat([parts[0]!, count, ...parts.slice(1)]);
}

/** Whether `base:allocation` is selected in the end. */
function selected(options: readonly Buffer[], directory?: TestDirectory): boolean {
  const { outcome } = converse([Buffer.concat([clientFlags(), ...options])], directory);
  assert(outcome?.kind === 'negotiated');
  const { contexts } = outcome.negotiated.features;
  assert.deepEqual(contexts, contexts.length === 0 ? [] : ALLOCATION);
  return contexts.length > 0;
}

function twoExports(): TestDirectory {
  return new TestDirectory([makeExport(), makeExport({ name: 'vg/other' })]);
}

/** An option right after the client's flags. */
function flagged(bytes: Buffer, count = 1): Buffer {
  return Buffer.concat([clientFlags(), ...Array<Buffer>(count).fill(bytes)]);
}

/** The transmission flags that INFO tells. */
function flagsOf(fields: Parameters<typeof makeExport>[0]): number {
  const [reply] = ask([option(OPT.info, query('vg/lv'))], new TestDirectory([makeExport(fields)]));
  return reply!.payload.readUInt16BE(10);
}

function payloadOf(reply: OptionReply): Buffer {
  return reply.payload;
}

/** What LIST tells of contexts. */
function zero(names: readonly string[]): (readonly [number, string])[] {
  return names.map((name) => [0, name] as const);
}

describe('handshake', () => {
  test('greets with NBDMAGIC, IHAVEOPT and both flags', () => {
    assert.deepEqual(greeting(), Buffer.from('NBDMAGICIHAVEOPT\0\x03', 'latin1'));
  });

  test('closes on unknown client flags', () => {
    for (const flags of [4, 0x80000003, 0xffffffff]) assert.match(closes(clientFlags(flags)), /client flags/);
  });

  test('a client without fixed newstyle may only give an export name', () => {
    assert.match(closes(Buffer.concat([clientFlags(0), option(OPT.list)])), /fixed newstyle/);
    const { outcome, bytes } = converse([clientFlags(0), option(OPT.exportName, Buffer.from('vg/lv'))]);
    assert.equal(outcome?.kind, 'negotiated');
    assert.equal(bytes.length, 134);
  });

  test('every message may be cut at every byte', () => {
    const script = Buffer.concat([
      clientFlags(),
      option(0x7654321, Buffer.from('four')),
      option(OPT.starttls),
      option(OPT.structured),
      option(OPT.list),
      option(OPT.info, query('vg/lv', [1, 2, 3])),
      option(OPT.info, query('nope')),
      option(OPT.info, Buffer.from('abc')),
      option(OPT.go, query('vg/lv', [3])),
      Buffer.from('the first request'),
    ]);
    const whole = converse([script]);
    assert.equal(whole.outcome?.kind, 'negotiated');
    for (const chunks of everySplit(script)) {
      const handshake = new Handshake(new TestDirectory([makeExport()]));
      const sent: Buffer[] = [];
      let after: Buffer = Buffer.alloc(0);
      let ended: HandshakeOutcome | null = null;
      for (const chunk of chunks) {
        if (ended !== null) {
          after = Buffer.concat([after, chunk]);
          continue;
        }
        const { replies, outcome } = handshake.receive(chunk);
        sent.push(...replies);
        ended = outcome;
        if (outcome?.kind !== 'negotiated') continue;
        sent.push(...finalReply(outcome.negotiated));
        after = Buffer.from(outcome.negotiated.leftover);
      }
      assert.deepEqual(Buffer.concat(sent), whole.bytes);
      assert.equal(after.toString(), 'the first request');
    }
  });

  const refusals: readonly (readonly [string, Buffer, number])[] = [
    ['unknown option without payload', option(12), ERR.unsup],
    ['unknown option, its payload consumed', option(0x7654321, Buffer.from('four')), ERR.unsup],
    ['unknown option with a long payload', option(99, Buffer.alloc(1_000_000)), ERR.unsup],
    ['option 0', option(0), ERR.unsup],
    ['PEEK_EXPORT, withdrawn', option(4), ERR.unsup],
    ['STARTTLS', option(OPT.starttls), ERR.unsup],
    ['STARTTLS with payload', option(OPT.starttls, Buffer.from('x')), ERR.unsup],
    ['STRUCTURED_REPLY with payload', option(OPT.structured, Buffer.from('x')), ERR.invalid],
    ['EXTENDED_HEADERS with payload', option(OPT.extended, Buffer.from('x')), ERR.invalid],
    ['LIST with payload', option(OPT.list, Buffer.from('x')), ERR.invalid],
    ['INFO without payload', option(OPT.info), ERR.invalid],
    ['INFO of 3 bytes', option(OPT.info, Buffer.from('abc')), ERR.invalid],
    ['INFO of 5 bytes', option(OPT.info, Buffer.alloc(5)), ERR.invalid],
    ['name longer than the payload', option(OPT.info, query('vg/lv', [], { nameLength: 6 })), ERR.invalid],
    ['name length 2^32-1', option(OPT.go, query('vg/lv', [], { nameLength: 0xffffffff })), ERR.invalid],
    ['count larger than the payload', option(OPT.go, query('vg/lv', [3], { count: 2 })), ERR.invalid],
    ['count smaller than the payload', option(OPT.go, query('vg/lv', [3, 1], { count: 1 })), ERR.invalid],
    ['one byte too many', option(OPT.go, Buffer.concat([query('vg/lv'), Buffer.alloc(1)])), ERR.invalid],
    ['name of 4096 bytes', option(OPT.go, query('x'.repeat(4096))), ERR.unknown],
    ['name of 4097 bytes', option(OPT.go, query('x'.repeat(4097))), ERR.invalid],
    ['name with NUL', option(OPT.go, query('vg/lv\0')), ERR.invalid],
    ['name that is not UTF-8', option(OPT.go, query(Buffer.from([0x76, 0xff]))), ERR.invalid],
    ['unknown name, INFO', option(OPT.info, query('vg/nope')), ERR.unknown],
    ['unknown name, GO', option(OPT.go, query('vg/nope')), ERR.unknown],
    ['the default export, where there is none', option(OPT.go, query('')), ERR.unknown],
    ['a known option with too much payload', option(OPT.go, Buffer.alloc(65_537)), ERR.tooBig],
    ['a LIST with too much payload', option(OPT.list, Buffer.alloc(65_537)), ERR.tooBig],
  ];
  for (const [name, bytes, type] of refusals) {
    test(`refused: ${name}`, () => {
      assert.deepEqual(typesOf(bytes), [type]);
    });
  }

  test('structured replies: may be asked for twice, change the flags shown, and are told to who serves the export', () => {
    const both = Buffer.concat([option(OPT.structured), option(OPT.structured)]);
    assert.deepEqual(
      ask([both]).map(({ type }) => type),
      [ACK, ACK],
    );
    const [before, , , after] = ask([
      option(OPT.info, query('vg/lv')),
      option(OPT.structured),
      option(OPT.info, query('vg/lv')),
    ]);
    const flags = [before, after].map((reply) => reply!.payload.readUInt16BE(10));
    assert.equal(flags[1]! ^ flags[0]!, 0x80);
    for (const options of [[], [both]]) {
      const { outcome } = converse([Buffer.concat([clientFlags(), ...options, option(OPT.go, query('vg/lv'))])]);
      assert.equal(outcome?.kind, 'negotiated');
      const { features, info } = outcome.kind === 'negotiated' ? outcome.negotiated : assert.fail();
      assert.deepEqual(
        [features.structuredReplies, (info.flags & 0x80) !== 0],
        [options.length > 0, options.length > 0],
      );
    }
  });

  /** Whether BLOCK_STATUS takes payloads after these options and a GO. */
  function takesPayloads(...options: readonly Buffer[]): boolean {
    const { outcome } = converse([Buffer.concat([clientFlags(), ...options, option(OPT.go, query('vg/lv'))])]);
    assert(outcome?.kind === 'negotiated');
    return (outcome.negotiated.info.flags & 0x1000) !== 0;
  }

  describe('extended headers', () => {
    const extended = option(OPT.extended);
    const structured = option(OPT.structured);
    const go = option(OPT.go, query('vg/lv'));

    test('are agreed on, after structured replies or without, and stay so when a second time is refused', () => {
      for (const before of [[], [structured], [extended]]) {
        const { outcome } = converse([Buffer.concat([clientFlags(), ...before, extended, go])]);
        assert(outcome?.kind === 'negotiated');
        const { structuredReplies, extendedHeaders } = outcome.negotiated.features;
        assert.deepEqual([structuredReplies, extendedHeaders], [true, true]);
        assert.equal(outcome.negotiated.info.flags & 0x80, 0x80, 'SEND_DF');
      }
    });

    test('take the place of structured replies, which can not be asked for then', () => {
      const replies = ask([extended, structured]);
      assert.deepEqual(
        replies.map(({ type }) => type),
        [ACK, ERR.extHeaderReqd],
      );
      assert.match(replies[1]?.payload.toString() ?? '', /extended headers/);
    });

    test('forbid EXPORT_NAME', () => {
      const { outcome } = converse([
        Buffer.concat([clientFlags(), extended, option(OPT.exportName, Buffer.from('vg/lv'))]),
      ]);
      assert(outcome?.kind === 'close');
      assert.match(outcome.reason, /extended headers/);
    });

    test('allow contexts, and say that BLOCK_STATUS takes payloads only if there are some', () => {
      const set = option(OPT.setMeta, contexts('vg/lv', ['base:allocation']));
      assert.equal(takesPayloads(extended, set), true);
      assert.equal(takesPayloads(extended), false);
      assert.equal(takesPayloads(structured, set), false);
    });
  });

  describe('meta contexts', () => {
    const ALL = ['base:allocation'];
    const structured = option(OPT.structured);
    const go = (name = 'vg/lv'): Buffer => option(OPT.go, query(name));

    const list = (queries: readonly string[]): Buffer => option(OPT.listMeta, contexts('vg/lv', queries));
    const set = (queries: readonly string[], name = 'vg/lv'): Buffer => option(OPT.setMeta, contexts(name, queries));

    /** Names and numbers of the contexts in the replies, which an ACK ends. */
    function told(options: readonly Buffer[]): (readonly [number, string])[] {
      const replies = ask(options).filter((reply) => reply.option !== OPT.structured);
      assert.equal(replies.pop()?.type, ACK);
      for (const { type } of replies) assert.equal(type, META);
      return replies.map(({ payload }) => [payload.readUInt32BE(0), payload.toString('utf8', 4)] as const);
    }

    test('LIST: everything, a wildcard, a name, other namespaces; before structured replies, too', () => {
      const all = [[0, 'base:allocation']];
      for (const queries of [[], ['base:'], ALL, ['qemu:', 'base:', 'base:allocation'], ['x', ...ALL]]) {
        assert.deepEqual(told([list(queries)]), all);
        assert.deepEqual(told([structured, list(queries)]), all);
      }
      for (const queries of [
        ['qemu:dirty-bitmap:x'],
        ['base'],
        ['base:alloc'],
        ['BASE:'],
        [''],
        ['base:allocation '],
      ]) {
        assert.deepEqual(told([list(queries)]), []);
      }
    });

    test('SET: each context once and by exact name, and only after structured replies', () => {
      const one = [[1, 'base:allocation']];
      assert.deepEqual(told([structured, set(ALL)]), one);
      assert.deepEqual(told([structured, set(['x:y', ...ALL, ...ALL])]), one);
      for (const queries of [[], ['base:'], ['other:thing'], ['base']]) {
        assert.deepEqual(told([structured, set(queries)]), []);
      }
      assert.deepEqual(typesOf(set(ALL)), [ERR.invalid]);
    });

    test('contexts of an export: LIST by prefix, SET numbers them in the order of the export', () => {
      const own = ['x-orion:segment', 'x-orion:changed:a', 'x-orion:changed:b', 'qemu:dirty-bitmap:a'];
      const directory = new TestDirectory([makeExport({ contexts: [...ALL, ...own] })]);
      const names = (...options: readonly Buffer[]): (readonly [number, string])[] =>
        ask(options, directory).flatMap(({ type, payload }) =>
          type === META ? [[payload.readUInt32BE(0), payload.toString('utf8', 4)] as const] : [],
        );
      assert.deepEqual(names(list([])), zero([...ALL, ...own]));
      assert.deepEqual(names(list(['x-orion:'])), zero(own.slice(0, 3)));
      assert.deepEqual(names(list(['x-orion:changed:', 'qemu:'])), zero(own.slice(1)));
      assert.deepEqual(names(list(['x-orion:changed', 'other:'])), []);
      assert.deepEqual(names(structured, set(['qemu:dirty-bitmap:a', 'x-orion:', 'x-orion:segment'])), [
        [1, 'x-orion:segment'],
        [2, 'qemu:dirty-bitmap:a'],
      ]);
    });

    test('SET: more than 64 contexts are too many, and select none', () => {
      const many = Array.from({ length: 65 }, (_, i) => `x:${i}`);
      const directory = new TestDirectory([makeExport({ contexts: many })]);
      const types = ask([structured, set(many), set(many.slice(1))], directory).map(({ type }) => type);
      assert.deepEqual(types, [ACK, ERR.tooBig, ...Array.from({ length: 64 }, () => META), ACK]);
      const { outcome } = converse([Buffer.concat([clientFlags(), structured, set(many), go()])], directory);
      assert(outcome?.kind === 'negotiated');
      assert.deepEqual(outcome.negotiated.features.contexts, []);
    });

    test('what was selected counts for the GO or EXPORT_NAME of that name', () => {
      assert.equal(selected([structured, set(ALL), go()]), true);
      assert.equal(selected([structured, set(ALL), option(OPT.exportName, Buffer.from('vg/lv'))]), true);
      assert.equal(selected([structured, set(ALL), go('vg/nope'), go()]), true);
      assert.equal(selected([structured, go()]), false);
      assert.equal(selected([structured, list(ALL), go()]), false);
      assert.equal(selected([structured, set(ALL), go('vg/other')], twoExports()), false);
      assert.equal(selected([structured, set(ALL), set(ALL, 'vg/other'), go()], twoExports()), false);
    });

    test('a SET replaces the one before, even when it fails', () => {
      const failures = [
        set([]),
        set(ALL, 'vg/nope'),
        option(OPT.setMeta, Buffer.alloc(3)),
        option(OPT.setMeta, contexts('vg/lv', ALL, { last: 99 })),
        set(Array<string>(1025).fill('')),
        option(OPT.setMeta, Buffer.alloc(65_537)),
      ];
      for (const failure of failures) {
        assert.equal(selected([structured, set(ALL), failure, go()]), false);
        assert.equal(selected([structured, failure, set(ALL), go()]), true);
      }
    });

    const refusedContexts: readonly (readonly [string, Buffer, number])[] = [
      ['no payload', Buffer.alloc(0), ERR.invalid],
      ['7 bytes', Buffer.alloc(7), ERR.invalid],
      ['a name longer than the payload', Buffer.from([0, 0, 0, 1, 0, 0, 0, 0]), ERR.invalid],
      ['a name length of 2^32-1', Buffer.alloc(12, 0xff), ERR.invalid],
      ['more queries than fit', contexts('vg/lv', ALL, { count: 2 }), ERR.invalid],
      ['2^32-1 queries', contexts('vg/lv', ALL, { count: 0xffffffff }), ERR.invalid],
      ['fewer queries than there are', contexts('vg/lv', ALL, { count: 0 }), ERR.invalid],
      ['a query longer than the payload', contexts('vg/lv', ALL, { last: 16 }), ERR.invalid],
      ['a query shorter than the payload', contexts('vg/lv', ALL, { last: 14 }), ERR.invalid],
      ['a query of 4097 bytes', contexts('vg/lv', ['x'.repeat(4097)]), ERR.invalid],
      ['a name that is not UTF-8', Buffer.from([0, 0, 0, 1, 0xff, 0, 0, 0, 0]), ERR.invalid],
      ['an unknown name', contexts('vg/nope', ALL), ERR.unknown],
      ['1025 queries', contexts('vg/lv', Array<string>(1025).fill('')), ERR.tooBig],
      ['65,537 bytes', Buffer.alloc(65_537), ERR.tooBig],
    ];
    for (const [name, payload, type] of refusedContexts) {
      test(`refused: ${name}`, () => {
        assert.deepEqual(typesOf(option(OPT.listMeta, payload)), [type]);
        const [, reply] = ask([structured, option(OPT.setMeta, payload)]);
        assert.equal(reply?.type, type);
      });
    }

    test('any payload gets one answer, and the next option is understood', () => {
      const anyQueries = fc.array(fc.oneof(fc.constantFrom('base:', 'base:allocation', 'x:y'), fc.string()));
      const anyPayload = fc.oneof(
        fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
        fc.tuple(anyQueries, fc.nat(200), fc.nat(255)).map(([queries, at, value]) => {
          const bytes = contexts('vg/lv', queries);
          bytes[at % bytes.length] = value;
          return bytes;
        }),
      );
      fc.assert(
        fc.property(anyPayload, fc.boolean(), (payload, sets) => {
          const type = sets ? OPT.setMeta : OPT.listMeta;
          const replies = ask([structured, option(type, payload), option(OPT.abort)]).slice(1, -1);
          const last = replies.pop();
          assert.ok(last !== undefined && (last.type === ACK || last.type > 2 ** 31));
          for (const { type: kind } of replies) assert.equal(kind, META);
        }),
        { numRuns: 300 },
      );
    });
  });

  test('a refusal carries the reason for people', () => {
    const [reply] = ask([option(OPT.go, query('vg/nope'))]);
    assert.equal(reply?.payload.toString(), 'there is no export "vg/nope"');
  });

  test('a text never passes 4096 bytes nor ends inside a character', () => {
    const [reply] = ask([option(OPT.go, query('€'.repeat(1365)))]);
    assert.equal(reply?.type, ERR.unknown);
    assert.ok(reply.payload.length <= 4096 && reply.payload.length > 4000);
    assert.ok(new TextDecoder('utf-8', { fatal: true }).decode(reply.payload).startsWith('there is no export "€'));
  });

  test('closes: wrong magic, huge payload, a bad EXPORT_NAME', () => {
    assert.match(closes(flagged(Buffer.from('IHAVEOPS\0\0\0\x03\0\0\0\0', 'latin1'))), /magic/);
    assert.match(closes(flagged(option(OPT.list, undefined, 0xffffffff))), /4294967295 bytes/);
    assert.match(closes(flagged(option(77, undefined, 2 ** 20 + 1))), /1048577 bytes/);
    assert.match(closes(flagged(option(OPT.exportName, Buffer.from('nope')))), /there is no export "nope"/);
    assert.match(closes(flagged(option(OPT.exportName))), /no default export/);
    assert.match(closes(flagged(option(OPT.exportName, Buffer.alloc(4097, 'x')))), /4097 bytes/);
    assert.match(closes(flagged(option(OPT.exportName, Buffer.alloc(70_000, 'x')))), /longer than any/);
  });

  test('too many options, or LISTs, end in a close; what a LIST named may be asked about', () => {
    assert.equal(converse([flagged(option(OPT.starttls), 64)]).outcome, null);
    assert.match(closes(flagged(option(OPT.starttls), 65)), /too many options/);
    assert.match(closes(flagged(option(OPT.list), 9)), /too many LIST/);
    const exports = Array.from({ length: 200 }, (_, i) => makeExport({ name: `vg/lv${i}` }));
    const asked = exports.flatMap(({ name }) => [
      option(OPT.listMeta, contexts(name, [])),
      option(OPT.setMeta, contexts(name, ['base:allocation'])),
      option(OPT.info, query(name)),
      option(OPT.info, query(name)),
    ]);
    const directory = new TestDirectory(exports);
    const list = [clientFlags(), option(OPT.structured), option(OPT.list), ...asked];
    assert.equal(converse(list, directory).outcome, null);
    const more = Array<Buffer>(63).fill(option(OPT.starttls));
    assert.match(closes(Buffer.concat([...list, ...more]), directory), /too many options/);
  });

  test('ABORT is acknowledged, with payload too, and closes', () => {
    for (const payload of [Buffer.alloc(0), Buffer.from('bye'), Buffer.alloc(100_000)]) {
      const { bytes, outcome } = converse([clientFlags(), option(OPT.abort, payload)]);
      assert.deepEqual(optionReplies(bytes), [{ option: OPT.abort, type: ACK, payload: Buffer.alloc(0) }]);
      assert.deepEqual(outcome, { kind: 'close', reason: '' });
    }
  });

  test('LIST names every export with its description, and never the empty name', () => {
    const directory = new TestDirectory([
      makeExport({ name: 'vg/a', description: 'first' }),
      makeExport({ name: '', description: 'the default' }),
      makeExport({ name: 'vg/é', description: '' }),
    ]);
    const replies = ask([option(OPT.list)], directory);
    assert.deepEqual(
      replies.map(({ type, payload }) => [type, payload.toString('latin1')]),
      [
        [SERVER, '\0\0\0\x04vg/afirst'],
        [SERVER, `\0\0\0\x05${Buffer.from('vg/é').toString('latin1')}`],
        [ACK, ''],
      ],
    );
    assert.deepEqual(typesOf(option(OPT.list), new TestDirectory([])), [ACK]);
  });

  test('INFO tells what is asked for, once, and ignores unknown types', () => {
    const volume = new MemoryDevice({ sizeBytes: 3 * 2 ** 40 + 512 });
    const directory = new TestDirectory([makeExport({ volume, preferredBlockSize: 65_536 })]);
    const replies = ask([option(OPT.info, query('vg/lv', [3, 3, 77, 1, 2, 0]))], directory);
    assert.deepEqual(
      replies.map(({ type, payload }) => [type, payload.toString('hex')]),
      [
        [INFO, '000000000300000002000d6d'],
        [INFO, `0001${Buffer.from('vg/lv').toString('hex')}`],
        [INFO, `0002${Buffer.from('1 MiB linear').toString('hex')}`],
        [INFO, '0003000000010001000004000000'],
        [ACK, ''],
      ],
    );
    assert.deepEqual(typesOf(option(OPT.info, query('vg/lv'))), [INFO, ACK]);
  });

  test('the flags say what an export can do', () => {
    // HAS_FLAGS 1, READ_ONLY 2, FLUSH 4, FUA 8, TRIM 0x20, WRITE_ZEROES 0x40, MULTI_CONN 0x100, CACHE 0x400, FAST_ZERO 0x800
    assert.equal(flagsOf({}), 0xd6d);
    assert.equal(flagsOf({ canTrim: false }), 0xd4d);
    assert.equal(flagsOf({ readOnly: true }), 0x50f);
  });

  test('GO after INFO shows the same, though the volume has grown; after anything else, what is true now', () => {
    const volume = resizable(new MemoryDevice({ sizeBytes: 2 ** 20 }));
    const info = option(OPT.info, query('vg/lv', [1, 2, 3]));
    const go = option(OPT.go, query('vg/lv', [1, 2, 3]));
    for (const [between, expected] of [
      [[], 2 ** 20],
      [[option(OPT.list)], 2 ** 21],
      [[option(0x7654321)], 2 ** 21],
      [[option(OPT.info, query('nope'))], 2 ** 21],
    ] as const) {
      volume.sizeBytes = 2 ** 20;
      const handshake = new Handshake(new TestDirectory([makeExport({ volume })]));
      const before = handshake.receive(Buffer.concat([clientFlags(), info]));
      volume.sizeBytes = 2 ** 21;
      const { outcome } = handshake.receive(Buffer.concat([...between, go]));
      assert.equal(outcome?.kind, 'negotiated');
      if (outcome.kind !== 'negotiated') return;
      const shown = optionReplies(Buffer.concat(finalReply(outcome.negotiated)));
      assert.equal(Number(shown[0]!.payload.readBigUInt64BE(2)), expected);
      if (between.length === 0)
        assert.deepEqual(shown.map(payloadOf), optionReplies(Buffer.concat(before.replies)).map(payloadOf));
    }
  });

  test('a default export is answered under its own name', () => {
    const directory = new TestDirectory([makeExport()]);
    directory.find = (name) => (name === '' ? listed(directory.exports[0]!) : null);
    const replies = ask([option(OPT.go, query('', [1]))], directory);
    assert.equal(replies[1]?.payload.subarray(2).toString(), 'vg/lv');
  });

  test('EXPORT_NAME: 10 bytes with NO_ZEROES, 134 without, nothing after GO', () => {
    const named = option(OPT.exportName, Buffer.from('vg/lv'));
    const short = converse([clientFlags(3), named]);
    assert.equal(short.bytes.toString('hex'), '00000000001000000d6d');
    const long = converse([clientFlags(1), named]);
    assert.deepEqual(long.bytes, Buffer.concat([short.bytes, Buffer.alloc(124)]));
    const go = optionReplies(converse([clientFlags(1), option(OPT.go, query('vg/lv'))]).bytes);
    assert.deepEqual(
      go.map(({ type }) => type),
      [INFO, ACK],
    );
  });

  test('the outcome is plain data, so that another process may answer and serve', () => {
    const script = Buffer.concat([clientFlags(), option(OPT.go, query('vg/lv', [3])), Buffer.from('early')]);
    const { bytes, outcome } = converse([script]);
    assert.equal(outcome?.kind, 'negotiated');
    if (outcome.kind !== 'negotiated') return;
    const travelled = structuredClone(outcome.negotiated);
    assert.deepEqual(Buffer.concat(finalReply(travelled)), bytes);
    assert.equal(Buffer.from(travelled.leftover).toString(), 'early');
  });

  test('random bytes never crash it and never make it answer more than it was asked', () => {
    const piece = fc.oneof(
      fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
      fc
        .tuple(fc.nat(12), fc.uint8Array({ maxLength: 60 }), fc.option(fc.nat(200)))
        .map(([type, payload, length]) => option(type, payload, length ?? payload.length)),
      fc.constantFrom(option(OPT.list), option(OPT.info, query('vg/lv', [1, 2, 3])), clientFlags()),
    );
    const script = fc.tuple(fc.boolean(), fc.array(piece, { maxLength: 12 }));
    fc.assert(
      fc.property(script, fc.array(fc.nat(30), { maxLength: 20 }), ([polite, pieces], cuts) => {
        const bytes = Buffer.concat(polite ? [clientFlags(), ...pieces] : pieces);
        const chunks: Buffer[] = [];
        let at = 0;
        for (const cut of cuts) {
          chunks.push(bytes.subarray(at, at + cut));
          at = Math.min(at + cut, bytes.length);
        }
        chunks.push(bytes.subarray(at));
        const whole = converse([bytes]);
        const cutUp = converse(chunks);
        assert.deepEqual(cutUp.bytes, whole.bytes);
        assert.equal(cutUp.outcome?.kind, whole.outcome?.kind);
      }),
      { numRuns: 500 },
    );
  });
});

/** A handshake in which an export was chosen. */
function negotiate(bytes: Buffer): Handshake {
  const handshake = new Handshake(new TestDirectory([makeExport()]));
  const { outcome } = handshake.receive(Buffer.concat([clientFlags(), bytes]));
  assert.equal(outcome?.kind, 'negotiated');
  return handshake;
}

describe('an export that can not be had after it was chosen', () => {
  test('is refused to GO, and what came behind is understood', () => {
    for (const kind of ['unknown', 'policy'] as const) {
      const handshake = negotiate(Buffer.concat([option(OPT.go, query('vg/lv')), option(OPT.go, query('vg/lv'))]));
      const { replies, outcome } = handshake.refuse({ kind, text: 'it has gone' });
      const [refusal] = optionReplies(Buffer.concat(replies));
      assert.equal(refusal?.type, kind === 'policy' ? 0x80000002 : ERR.unknown);
      assert.equal(refusal?.payload.toString(), 'it has gone');
      assert.equal(outcome?.kind, 'negotiated', 'the second GO');
      const again = handshake.refuse({ kind, text: 'still' });
      assert.equal(again.outcome, null);
      const rest = handshake.receive(option(OPT.abort));
      assert.deepEqual([optionReplies(Buffer.concat(rest.replies))[0]?.type, rest.outcome?.kind], [ACK, 'close']);
    }
  });

  test('ends the conversation of EXPORT_NAME', () => {
    const handshake = negotiate(option(OPT.exportName, Buffer.from('vg/lv')));
    const { replies, outcome } = handshake.refuse({ kind: 'unknown', text: 'it has gone' });
    assert.equal(replies.length, 0);
    assert.deepEqual(outcome, { kind: 'close', reason: 'EXPORT_NAME: it has gone' });
  });
});
