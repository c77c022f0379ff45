/** What configuration and other clients make of an export: default, block sizes, read-only, counts, one writer. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ConfiguredExports, type ExportUse } from '../../src/daemon/configured-exports.ts';
import {
  type ExportRules,
  exportRules,
  type ExportsSettings,
  NO_EXPORT_SETTINGS,
  NO_RULES,
  settleExports,
} from '../../src/daemon/export-settings.ts';
import { identityText } from '../../src/daemon/client-identity.ts';
import { checkConfig } from '../../src/daemon/config-schema.ts';
import { type ClientIdentity, describeExport, type ExportView } from '../../src/nbd/exports.ts';
import { makeExport, TestDirectory } from '../nbd/exports.ts';

const ALICE: ClientIdentity = { kind: 'unix', uid: 1, gid: 1, groups: [], pid: 10 };
const BOB: ClientIdentity = { kind: 'tcp', address: '10.0.0.2', port: 4000 };

class Bench {
  settings: ExportsSettings = NO_EXPORT_SETTINGS;
  readonly uses = new Map<string, ExportUse[]>();
  readonly exports: ConfiguredExports;

  constructor(names: readonly string[] = ['vg/a', 'vg/b']) {
    const directory = new TestDirectory(names.map((name) => makeExport({ name })));
    this.exports = new ConfiguredExports({
      directory,
      settings: () => this.settings,
      uses: (name) => this.uses.get(name) ?? [],
    });
  }

  rule(rules: Partial<ExportRules>, volumes = ['vg/a']): void {
    this.settings = { ...this.settings, tables: [{ volumes, rules: { ...NO_RULES, ...rules } }] };
  }

  use(name: string, client: ClientIdentity, writes = true): void {
    this.uses.set(name, [...(this.uses.get(name) ?? []), { identity: identityText(client), writes }]);
  }

  view(client: ClientIdentity = ALICE): ExportView {
    return this.exports.viewFor(client);
  }
}

describe('the default export', () => {
  test('is the configured one, else the only one, else none, which is told', () => {
    const bench = new Bench();
    assert.equal(bench.view().find(''), null);
    assert.deepEqual(bench.view().explain(''), {
      kind: 'unknown',
      text: 'there is no default export, and there are 2 exports: name one as VG/LV',
    });
    bench.settings = { ...bench.settings, defaultExport: 'vg/b' };
    assert.equal(bench.view().find('')?.name, 'vg/b');
    bench.settings = { ...bench.settings, defaultExport: 'vg/gone' };
    assert.equal(bench.view().find(''), null);
    assert.match(bench.view().explain('').text, /vg\/gone/);
    assert.equal(new Bench(['vg/only']).view().find('')?.name, 'vg/only');
    assert.match(new Bench([]).view().explain('').text, /no export is open/);
  });
});

describe('an export', () => {
  test('is as its table says, in lists, too; others are as they were', () => {
    const bench = new Bench();
    bench.rule({ readOnly: true, minimumBlockSize: 8192, maximumBlockSize: 2 ** 20 });
    const [a, b] = bench.view().list();
    assert.deepEqual(
      [a?.readOnly, a?.minimumBlockSize, a?.preferredBlockSize, a?.maximumBlockSize],
      [true, 8192, 8192, 2 ** 20],
    );
    assert.equal(b?.readOnly, false);
    assert.deepEqual(bench.view().find('vg/a'), a);
    const info = describeExport(a!);
    assert.deepEqual(
      [info.minimumBlockSize, info.preferredBlockSize, info.maximumBlockSize, info.flags & 2],
      [8192, 8192, 2 ** 20, 2],
    );
    bench.rule({ preferredBlockSize: 65_536 });
    assert.equal(bench.view().find('vg/a')?.preferredBlockSize, 65_536);
  });

  test('has no more connections than it may have; the limit is no other export’s', () => {
    const bench = new Bench();
    bench.rule({ maxConnections: 2 });
    assert.equal(bench.view().admit?.('vg/a'), null);
    bench.use('vg/a', ALICE);
    bench.use('vg/a', BOB, false);
    assert.deepEqual(bench.view().admit?.('vg/a'), {
      kind: 'policy',
      text: 'vg/a has 2 connections, at most 2 are allowed',
    });
    assert.equal(bench.view().admit?.('vg/b'), null);
    assert.notEqual(bench.view().find('vg/a'), null, 'it is shown all the same');
  });

  test('has one writer: others read, or are refused, as long as he is there', () => {
    const bench = new Bench();
    bench.rule({ besidesWriter: 'read-only' });
    bench.use('vg/a', BOB, false);
    assert.equal(bench.view(ALICE).find('vg/a')?.readOnly, false, 'who reads holds nothing');
    bench.use('vg/a', ALICE);
    assert.equal(bench.view(ALICE).find('vg/a')?.readOnly, false, 'all of his connections');
    assert.equal(bench.view(BOB).find('vg/a')?.readOnly, true);
    bench.rule({ besidesWriter: 'refused' });
    assert.equal(bench.view(BOB).find('vg/a'), null);
    assert.deepEqual(bench.view(BOB).explain('vg/a'), {
      kind: 'policy',
      text: 'vg/a is open to one writer at a time, which is user 1, process 10',
    });
    assert.equal(bench.view(BOB).list().length, 2, 'he may have it later');
    bench.uses.clear();
    assert.equal(bench.view(BOB).find('vg/a')?.readOnly, false);
  });
});

test('who can’t be told from others is nobody’s second connection', () => {
  const unknown: ClientIdentity = { kind: 'unknown' };
  const bench = new Bench();
  bench.rule({ besidesWriter: 'refused' });
  assert.equal(bench.view(unknown).find('vg/a')?.readOnly, false);
  bench.use('vg/a', unknown);
  assert.equal(bench.view(unknown).find('vg/a'), null);
  assert.deepEqual(bench.view(unknown).explain('vg/a'), {
    kind: 'policy',
    text: 'vg/a is open to one writer at a time, which is an unknown client',
  });
  assert.equal(bench.view(ALICE).find('vg/a'), null);
  bench.uses.clear();
  const keyed: ClientIdentity = {
    ...unknown,
    tls: { subject: null, pskName: 'bob', protocol: 'TLSv1.3', cipher: 'x' },
  };
  bench.use('vg/a', keyed);
  assert.equal(bench.view(keyed).find('vg/a')?.readOnly, false, 'a key is an identity');
});

test('who is who', () => {
  const tls = { subject: null, pskName: null, protocol: 'TLSv1.3', cipher: 'x' };
  assert.deepEqual(
    [
      ALICE,
      { ...ALICE, pid: 11 },
      BOB,
      { ...BOB, port: 1 },
      { ...BOB, tls: { ...tls, subject: 'CN=bob' } },
      { ...BOB, tls: { ...tls, pskName: 'bob' } },
    ].map((client) => identityText(client)),
    ['user 1, process 10', 'user 1, process 11', '10.0.0.2', '10.0.0.2', 'CN=bob', 'the key bob'],
  );
});

describe('settings', () => {
  test('the first table that names a volume holds; VG names all of its volumes', () => {
    const problems: string[] = [];
    const table = { read_only: false, minimum_block_size: 1, maximum_block_size: 2 ** 26, max_connections: 0 };
    const rest = { ...table, exclusive_writer: false, other_clients: 'read-only' as const };
    const settings = settleExports(
      {
        default_export: 'vg/a',
        exports: [
          { ...rest, volumes: ['vg/a'], max_connections: 3 },
          { ...rest, volumes: ['vg', 'other/x'], exclusive_writer: true, other_clients: 'refused' },
          { ...rest, volumes: ['*'], read_only: true },
        ],
      },
      problems,
    );
    assert.deepEqual(problems, []);
    assert.equal(settings.defaultExport, 'vg/a');
    assert.deepEqual(exportRules(settings, 'vg/a'), { ...NO_RULES, maxConnections: 3 });
    assert.deepEqual(exportRules(settings, 'vg/b'), { ...NO_RULES, besidesWriter: 'refused' });
    assert.deepEqual(exportRules(settings, 'other/x'), { ...NO_RULES, besidesWriter: 'refused' });
    assert.deepEqual(exportRules(settings, 'other/y'), { ...NO_RULES, readOnly: true });
    assert.deepEqual(exportRules(NO_EXPORT_SETTINGS, 'vg/a'), NO_RULES);
  });

  const wrong: readonly (readonly [object, RegExp])[] = [
    [{ minimum_block_size: 1000 }, /minimum_block_size.*: 1000 is not allowed: .*power of two/],
    [{ minimum_block_size: 131_072 }, /minimum_block_size/],
    [{ preferred_block_size: 256 }, /preferred_block_size/],
    [{ maximum_block_size: 4096 }, /maximum_block_size/],
    [{ max_connections: -1 }, /max_connections/],
    [{ other_clients: 'writers' }, /other_clients/],
    [{ volumes: [] }, /volumes/],
    [{ volumes: ['vg/*'] }, /volumes/],
    [{ max_clients: 1 }, /no such key/],
  ];
  for (const [fields, message] of wrong) {
    test(`refused: ${JSON.stringify(fields)}`, () => {
      const result = checkConfig({ exports: [{ volumes: ['vg'], ...fields }] });
      assert('problems' in result);
      assert.match(result.problems.join('; '), message);
    });
  }

  test('refused: sizes that contradict each other', () => {
    const result = checkConfig({
      exports: [
        { volumes: ['vg'], minimum_block_size: 8192, preferred_block_size: 4096, maximum_block_size: 1_048_577 },
      ],
    });
    assert('config' in result);
    const problems: string[] = [];
    settleExports(result.config, problems);
    assert.deepEqual(problems, [
      'exports[0].preferred_block_size: it is less than minimum_block_size',
      'exports[0].maximum_block_size: it is no multiple of minimum_block_size',
    ]);
  });
});
