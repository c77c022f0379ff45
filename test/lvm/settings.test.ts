/** LVM2's settings: where they come from, which one holds, what is wrong with them, and what real lvmconfig says. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { CommandError } from '../../src/lvm/edit/errors.ts';
import { dumpSettings, type DumpType } from '../../src/lvm/settings/dump.ts';
import { hostTags, systemIdOf } from '../../src/lvm/settings/host.ts';
import { isConfigString, loadSettings, type SettingsSources } from '../../src/lvm/settings/load.ts';
import { SETTING_NODES } from '../../src/lvm/settings/nodes.ts';
import { Settings } from '../../src/lvm/settings.ts';
import { parseConfig } from '../../src/ondisk/config-parser.ts';

let folder = '';
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'orion-lvm-settings-'));
  mkdirSync(join(folder, 'profile'));
});
after(() => rmSync(folder, { recursive: true, force: true }));

function load(sources: Partial<SettingsSources> = {}): { settings: Settings; warnings: string[] } {
  const warnings: string[] = [];
  const settings = loadSettings({
    systemDirectory: folder,
    configStrings: [],
    hostName: 'host1',
    warn: (line) => warnings.push(line),
    ...sources,
  });
  return { settings, warnings };
}

/** The files of $LVM_SYSTEM_DIR for one test. */
function files(texts: Readonly<Record<string, string>>): void {
  for (const name of ['lvm.conf', 'lvmlocal.conf', 'lvm_t1.conf']) rmSync(join(folder, name), { force: true });
  for (const [name, text] of Object.entries(texts)) writeFileSync(join(folder, name), text);
}

describe('values', () => {
  test('are the defaults where nothing is given', () => {
    files({});
    const { settings, warnings } = load();
    assert.equal(settings.int('metadata/pvmetadatacopies'), 1);
    assert.equal(settings.bool('backup/archive'), true);
    assert.equal(settings.string('backup/backup_dir'), join(folder, 'backup'));
    assert.equal(settings.strings('activation/volume_list'), null);
    assert.deepEqual(settings.strings('devices/scan'), ['/dev']);
    assert.deepEqual(warnings, []);
  });

  test('come from the strongest source', () => {
    files({
      'lvm.conf': 'global { units="m" suffix=0 }\nbackup/retain_min = 3',
      'lvmlocal.conf': 'global/units = "s"',
      'profile/p.profile': 'global { units = "b" }',
    });
    assert.equal(load().settings.string('global/units'), 's');
    assert.equal(load().settings.int('backup/retain_min'), 3);
    assert.equal(load({ commandProfile: 'p' }).settings.string('global/units'), 'b');
    const both = load({ commandProfile: 'p', configStrings: ['global/units="t"'] }).settings;
    assert.equal(both.string('global/units'), 't');
    assert.equal(both.bool('global/suffix'), false);
  });

  test('of one configuration: the last one holds', () => {
    files({ 'lvm.conf': 'global { units="m" }\ndevices { dir="/x" }\nglobal { units="k" }' });
    assert.equal(load().settings.string('global/units'), 'k');
  });

  test('of a wrong type count as not given, and are told', () => {
    files({
      'lvm.conf': 'devices { dir="" scan=3 use_devicesfile="maybe" zork=1 }\nfoo { }\nbackup/retain_min="many"',
    });
    const { settings, warnings } = load();
    assert.equal(settings.string('devices/dir'), '/dev');
    assert.equal(settings.bool('devices/use_devicesfile'), false);
    assert.equal(settings.int('backup/retain_min'), 10);
    assert.deepEqual(warnings, [
      'Configuration setting "devices/dir" invalid. It cannot be set to an empty value.',
      'WARNING: Configuration setting "devices/scan" has invalid type. Found integer but expected array with values of type: string.',
      'Configuration setting "devices/use_devicesfile" invalid. Found string value "maybe", expected boolean value: 0/1, "y/n", "yes/no", "on/off", "true/false".',
      'Configuration setting "devices/zork" unknown.',
      'Configuration section "foo" unknown.',
      'WARNING: Configuration setting "backup/retain_min" has invalid type. Found string but expected integer.',
    ]);
  });

  test('are not told with config/checks = 0, and end the command with abort_on_errors', () => {
    files({ 'lvm.conf': 'config/checks = 0\nfoo { }' });
    assert.deepEqual(load().warnings, []);
    files({ 'lvm.conf': 'config/abort_on_errors = 1\nfoo { }' });
    assert.throws(() => load(), CommandError);
  });

  test('yes and no in every form', () => {
    files({});
    for (const [text, value] of [
      ['1', true],
      ['"y"', true],
      ['"Yes"', true],
      ['on', true],
      ['0', false],
      ['"off"', false],
    ] as const) {
      assert.equal(load({ configStrings: [`backup/archive=${text}`] }).settings.bool('backup/archive'), value, text);
    }
  });
});

const failure = (name: string, source: 'commandProfile' | 'metadataProfile'): string => {
  const warnings: string[] = [];
  try {
    load({ [source]: name, warn: (line) => warnings.push(line) });
  } catch (error) {
    assert.ok(error instanceof CommandError);
    return [...warnings, ...error.lines].join('\n');
  }
  return '';
};

describe('sources', () => {
  test('a configuration that is none ends the command', () => {
    files({});
    for (const text of ['devices {', 'devices/dir="x', 'a=b=c']) {
      assert.throws(
        () => load({ configStrings: [text] }),
        (error: unknown) => {
          assert.ok(error instanceof CommandError);
          assert.equal(error.exitCode, 3);
          return true;
        },
      );
    }
    files({ 'lvm.conf': 'devices {' });
    assert.throws(() => load(), /Failed to load config file/);
  });

  test('strings and paths are told apart', () => {
    for (const text of ['a/b=1', 'a { b=1 }', '']) assert.ok(isConfigString(text));
    for (const text of ['lvm.toml', '/etc/x.conf']) assert.ok(!isConfigString(text));
  });

  test('profiles are strict', () => {
    files({
      'profile/bad.profile': 'log/prefix=" "',
      'profile/meta.profile': 'allocation/thin_pool_zero=0',
    });
    assert.match(failure('none', 'commandProfile'), /Failed to apply command profile none\./);
    assert.match(failure('../x', 'commandProfile'), /bad profile name/);
    assert.match(
      failure('bad', 'commandProfile'),
      /not customizable by a profile\.\nIgnoring invalid command profile bad\./,
    );
    assert.match(failure('meta', 'commandProfile'), /customizable by metadata profile only/);
    assert.equal(failure('meta', 'metadataProfile'), '');
  });

  test('host tags bring files of their own', () => {
    files({
      'lvm.conf':
        'tags { hosttags=1 t1 { host_list=["other","host1"] } t2 { host_list="elsewhere" } }\nglobal/units="m"',
      'lvm_t1.conf': 'global/units="k"',
    });
    assert.equal(load().settings.string('global/units'), 'k');
    assert.equal(load({ hostName: 'nobody' }).settings.string('global/units'), 'm');
    const nodes = parseConfig('tags { hosttags=1 @a { } b { host_list=["x"] } }');
    assert.deepEqual(hostTags([nodes], 'h'), ['h', 'a']);
  });
});

const idOf = (text: string): { id: string | null; warnings: string[] } => {
  files({ 'lvm.conf': text, id: '# comment\n  the id! # rest\n' });
  const warnings: string[] = [];
  return { id: systemIdOf(load().settings, { hostName: 'host1', warn: (line) => warnings.push(line) }), warnings };
};

describe('system IDs', () => {
  test('by every source', () => {
    assert.equal(idOf('').id, null);
    assert.equal(idOf('global/system_id_source="uname"').id, 'host1');
    assert.equal(idOf('global/system_id_source="lvmlocal" local/system_id="a.b"').id, 'a.b');
    assert.equal(idOf(`global/system_id_source="file" global/system_id_file="${join(folder, 'id')}"`).id, 'theid');
    assert.match(idOf('global/system_id_source="zork"').warnings.join('\n'), /Unrecognised system_id_source "zork"/);
    assert.match(idOf('local/system_id="x"').warnings.join('\n'), /local\/system_id is set/);
  });

  test('as the real LVM2 sees them', () => {
    for (const source of ['machineid', 'appmachineid', 'uname']) {
      const text = `global/system_id_source="${source}"`;
      const said = lvm(['systemid', '--config', text]);
      const { settings } = load({ systemDirectory: '', configStrings: [text] });
      const hostName = lvm(['systemid', '--config', 'global/system_id_source="uname"'])
        .slice('  system ID: '.length)
        .trim();
      assert.equal(said.trim(), `system ID: ${systemIdOf(settings, { hostName, warn: assert.fail }) ?? ''}`);
    }
  });
});

function lvm(args: readonly string[]): string {
  const env = { ...process.env, LVM_SYSTEM_DIR: folder, LVM_SUPPRESS_FD_WARNINGS: '1' };
  return execFileSync('lvm', args, { env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
}

/** Settings by name from the text of a configuration; comment signs before them don't count. */
function byName(text: string): Readonly<Record<string, string>> {
  const settings = new Map<string, string>();
  const path: string[] = [];
  for (const raw of text.split('\n')) {
    const line = raw.replace(/^[\s#]+/, '');
    const section = /^(\S+) \{$/.exec(line)?.[1];
    if (section !== undefined) path.push(section);
    else if (line === '}') path.pop();
    else if (line !== '')
      settings.set([...path, line.slice(0, line.indexOf('='))].join('/'), line.slice(line.indexOf('=') + 1));
  }
  return Object.fromEntries(settings);
}

const ours = (type: DumpType, settings: Settings): Readonly<Record<string, string>> => {
  const { lines } = dumpSettings(settings, { type, layers: settings.layers, wanted: [], spaces: false });
  return byName(lines.join('\n'));
};

describe('lvmconfig', () => {
  test('every default is that of the real one', () => {
    files({ 'lvm.conf': 'global/units="r"' });
    const { settings } = load();
    for (const type of ['default', 'profilable-command', 'profilable-metadata', 'missing'] as const) {
      assert.deepEqual(ours(type, settings), byName(lvm(['lvmconfig', '--type', type])), type);
    }
  });

  test('what is set and what differs, as the real one shows it', () => {
    files({
      'lvm.conf':
        'global { units="m" suffix=1 }\ndevices { filter=["a|x|", "r|.*|"] scan="/dev" }\nactivation/volume_list=[]',
      'lvmlocal.conf': 'local/extra_system_ids=["a","b"]',
    });
    const { settings } = load();
    for (const type of ['current', 'diff'] as const) {
      assert.deepEqual(ours(type, settings), byName(lvm(['lvmconfig', '--type', type])), type);
    }
  });

  test('single settings and sections; what is not there is told', () => {
    const settings = new Settings([{ source: 'file', nodes: parseConfig('global { units="m" umask=077 }') }]);
    const dump = (type: DumpType, ...wanted: readonly string[]): string => {
      const { lines, missing } = dumpSettings(settings, { type, layers: settings.layers, wanted, spaces: true });
      return [...lines, ...missing.map((path) => `missing ${path}`)].join('\n');
    };
    assert.equal(dump('current', 'global/units', 'devices'), 'units = "m"\nmissing devices');
    assert.equal(dump('full', 'global/umask'), 'umask = 077');
    assert.equal(dump('default', 'devices/scan'), '# scan = [ "/dev" ]');
    assert.equal(dump('list', 'tags'), 'tags/hosttags');
  });

  test('every setting of the table has a value of its type or none', () => {
    for (const [path, node] of SETTING_NODES) {
      const kind = Array.isArray(node.default) ? 'strings' : typeof node.default;
      const expected = { bool: 'boolean', int: 'number', string: 'string', strings: 'strings' }[node.type];
      assert.ok(node.default === null || kind === expected, path);
    }
  });
});
