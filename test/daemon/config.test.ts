/** Configuration: every mistake is named with its key, value and what is allowed; precedence; the example is the defaults. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { parse as parseToml } from 'smol-toml';
import { loadSettings, parseConfigText, type Settings, type Surroundings } from '../../src/daemon/config.ts';
import { ALLOWED, checkConfig, defaultConfig } from '../../src/daemon/config-schema.ts';
import { DaemonError } from '../../src/daemon/errors.ts';
import { directOf } from '../../src/daemon/engine.ts';
import { type Flags, parseFlags } from '../../src/daemon/flags.ts';
import { formatListenUri } from '../../src/daemon/listen-uri.ts';
import { appliedBy, restartKeys } from '../../src/daemon/restart-keys.ts';
import { CHECKOUT } from '../helpers/shared.ts';

/** The problems of a config file's text, one a line. */
function problemsOf(text: string): string {
  try {
    parseConfigText(text, 'lvm.toml');
  } catch (error) {
    assert.ok(error instanceof DaemonError, String(error));
    assert.equal(error.exitCode, 3);
    return error.message;
  }
  return '';
}

/** What flags give: their text and exit code, or their values as JSON. */
function output(args: readonly string[]): string {
  const result = parseFlags(args, '1.2.3');
  return 'output' in result ? `${result.exitCode} ${result.output}` : JSON.stringify(result.flags);
}

/** Keys of a file's tables, dotted. */
function keysOf(table: object, prefix = ''): string[] {
  return Object.entries(table).flatMap(([key, value]: [string, unknown]) => {
    const table: unknown = Array.isArray(value) ? (value as unknown[])[0] : value;
    const nested = typeof table === 'object' && table !== null;
    return [`${prefix}${key}`].concat(nested ? keysOf(table, `${prefix}${key}.`) : []);
  });
}

describe('lvm.toml', () => {
  const bad: readonly (readonly [string, RegExp])[] = [
    ['devices = "a.img"', /^lvm.toml: devices: "a.img" is not allowed: it must be a list of paths/],
    ['devices = ["a", 7]', /devices\[1\]: 7 is not allowed/],
    ['devices = [""]', /devices\[0\]: "" is not allowed/],
    ['read_only = 1', /read_only: 1 is not allowed: it must be true or false/],
    ['engine = "fast"', /engine: "fast" is not allowed: it must be "auto", "uring" or "threads"/],
    ['busy_poll = 1001', /busy_poll: 1001 is not allowed: it must be a whole number of microseconds from 0 to 1000/],
    ['busy_poll = 0.5', /busy_poll: 0.5 is not allowed/],
    ['workers = -1', /workers: -1 is not allowed: it must be a whole number from 0 to 256/],
    ['workers = 1.5', /workers: 1.5 is not allowed/],
    ['listen = "tcp:localhost:1"', /listen: "tcp:localhost:1" is not allowed: it must be a list/],
    ['listen = ["http://x"]', /listen\[0\]: "http:\/\/x" is not allowed: .*"unix:\/path.sock" or "tcp:host:port"/],
    ['control = ""', /control: "" is not allowed/],
    ['run_dir = "run"', /run_dir: "run" is not allowed: it must be an absolute path/],
    ['socket_mode = 600', /socket_mode: 600 is not allowed: it must be three octal digits in quotes/],
    ['socket_mode = "0980"', /socket_mode: "0980" is not allowed/],
    ['socket_group = ""', /socket_group: "" is not allowed: it must be a group's name/],
    ['cache_policy = "lru"', /cache_policy: "lru" is not allowed: it must be "none", "writethrough" or "writeback"/],
    ['io_scheduler = "bfq"', /io_scheduler: "bfq" is not allowed/],
    ['cache_size = -1', /cache_size: -1 is not allowed/],
    ['cache_size = 4096', /cache_size: 4096 is not allowed: it must be a whole number of bytes from 1048576 to/],
    ['journal_size = 0.5', /journal_size: 0.5 is not allowed/],
    ['[access]\nobservers = ["alice"]', /access.observers\[0\]: "alice" is not allowed: .*"user:NAME"/],
    ['[[access.exports]]\nvolumes = []', /access.exports\[0\].volumes: \[\] is not allowed/],
    ['[[access.exports]]\nvolumes = ["a/b/c"]', /access.exports\[0\].volumes\[0\]: "a\/b\/c" is not allowed/],
    ['[[access.exports]]\nvolumes = ["*"]\nallow = ["all"]', /access.exports\[0\].allow\[0\]: "all" is not allowed/],
    ['[audit]\nfile = "audit.log"', /audit.file: "audit.log" is not allowed: it must be an absolute path/],
    ['[metrics]\nlisten = "unix:m"', /metrics.listen: "unix:m" is not allowed: it must be "tcp:host:port"/],
    ['[events]\ncommand = []', /events.command: \[\] is not allowed/],
    ['[events]\nwebhook = "ftp://x"', /events.webhook: "ftp:\/\/x" is not allowed/],
    ['[events]\nwebhook = "http://x:99999/"', /events.webhook: "http:\/\/x:99999\/" is not allowed: .* URL/],
    ['[events]\nwebhook = "http://%zz@x/"', /events.webhook: "http:\/\/%zz@x\/" is not allowed/],
    ['system_id = "a b"', /system_id: "a b" is not allowed/],
    ['extra_system_ids = ["-a"]', /extra_system_ids\[0\]: "-a" is not allowed: it must be a list of system IDs/],
    ['log = "debug"', /log: "debug" is not allowed: it must be a table: \[log\]/],
    ['[log]\nlevel = "loud"', /log.level: "loud" is not allowed: it must be "trace", "debug", .* or "silent"/],
    ['[log]\nformat = "xml"', /log.format: "xml" is not allowed/],
    ['activation = []', /activation: \[\] is not allowed/],
    ['[activation]\nauto_activation_volume_list = ["a/b/c"]', /auto_activation_volume_list\[0\]: "a\/b\/c"/],
    ['[activation]\nauto_activation_volume_list = ["@"]', /auto_activation_volume_list\[0\]: "@"/],
    ['limits = true', /limits: true is not allowed/],
    ['[limits]\nconnections = 0', /limits.connections: 0 is not allowed: it must be a whole number from 1 to 65536/],
    ['[limits]\nrequests_in_flight = "9"', /limits.requests_in_flight: "9" is not allowed/],
    ['[limits]\nbytes_in_flight = 4096', /limits.bytes_in_flight: 4096 is not allowed: .* from 67108864/],
    ['[limits]\nhandshake_timeout = 0', /limits.handshake_timeout: 0 is not allowed/],
    ['devicess = []', /^lvm.toml: devicess: no such key; did you mean devices\?$/],
    ['level = "info"', /level: no such key; did you mean log.level\?/],
    ['[log]\nlevle = "info"', /log.levle: no such key; did you mean log.level\?/],
    ['quux = 1', /^lvm.toml: quux: no such key$/],
    ['[logs]\nlevel = "info"', /logs: no such key; did you mean log\?/],
    ['devices = [', /^lvm.toml:1:\d+: not valid TOML: /],
    ['a = 1\na = 2', /^lvm.toml:2:\d+: not valid TOML: /],
    ['workers = 99999999999999999999', /workers|not valid TOML/],
  ];
  for (const [text, message] of bad) {
    test(`refuses ${JSON.stringify(text)}`, () => {
      assert.match(problemsOf(text), message);
    });
  }

  test('names all mistakes at once', () => {
    assert.equal(problemsOf('workers = -1\nreadonly = true\n[log]\nlevel = 3').split('\n').length, 3);
  });

  test('a hostile file is refused, never crashed on', () => {
    for (const text of ['\0', '[[[[', '__proto__ = 1', '[__proto__]\nx = 1', `a = ${'['.repeat(5000)}`, '"" = 1']) {
      assert.notEqual(problemsOf(text), '', JSON.stringify(text.slice(0, 40)));
    }
    assert.equal(Reflect.get({}, 'x'), undefined);
  });

  test('every key says what it may hold', () => {
    for (const key of Object.keys(ALLOWED)) {
      const nested = key
        .split('.')
        .reduceRight<unknown>(
          (value, part) => ({ [part]: part === 'exports' && typeof value === 'object' ? [value] : value }),
          Symbol('wrong'),
        );
      const result = checkConfig(nested);
      const problems = 'problems' in result ? result.problems : [];
      const problem = problems.find((text) => text.replaceAll('[0]', '').startsWith(`${key}: `)) ?? '';
      assert.notEqual(problem, '', `${key}: ${problems.join('; ')}`);
      assert.ok(problem.includes(ALLOWED[key] ?? '?'), problem);
    }
  });

  test('lvm.toml.example holds every key, with its default', () => {
    const text = readFileSync(join(CHECKOUT, 'lvm.toml.example'), 'utf8');
    assert.deepEqual(JSON.parse(JSON.stringify(parseToml(text))), defaultConfig());
    // With the keys that have no fixed default switched on, it is valid and complete.
    const whole = text.replaceAll(/^# (\w+ = |\[\[)/gm, '$1');
    parseConfigText(whole, 'lvm.toml.example');
    const keys = keysOf(parseToml(whole));
    assert.deepEqual(keys.toSorted(), Object.keys(ALLOWED).toSorted());
  });

  test('docs/operating.md names every key and flag', () => {
    const docs = readFileSync(join(CHECKOUT, 'docs/operating.md'), 'utf8');
    const result = parseFlags(['--help'], '0');
    assert.ok('output' in result);
    const flags = result.output.match(/--[a-z-]+/g) ?? [];
    assert.ok(flags.length > 8);
    for (const word of [...flags, ...Object.keys(ALLOWED)]) assert.ok(docs.includes(`\`${word}`), word);
  });
});

describe('settings', () => {
  let folder = '';
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'orion-lvm-config-'));
    mkdirSync(join(folder, 'etc'));
    mkdirSync(join(folder, 'cwd'));
  });
  after(() => {
    rmSync(folder, { recursive: true, force: true });
  });

  function around(changes: Partial<Surroundings> = {}): Surroundings {
    const systemConfigFile = join(folder, 'etc/lvm.toml');
    return { env: { XDG_RUNTIME_DIR: '/run/user/7' }, cwd: join(folder, 'cwd'), uid: 7, systemConfigFile, ...changes };
  }
  function load(flags: Flags, changes: Partial<Surroundings> = {}): Settings {
    return loadSettings(flags, around(changes));
  }
  function refused(flags: Flags, message: RegExp, changes: Partial<Surroundings> = {}): void {
    assert.throws(() => load(flags, changes), { code: 'BAD_CONFIG', exitCode: 3, message });
  }

  test('defaults: sockets in the run-time directory of root or of the user', () => {
    const user = load({ devices: ['a.img'] });
    assert.equal(user.configFile, null);
    assert.deepEqual(user.devices, [join(folder, 'cwd/a.img')]);
    assert.deepEqual(user.listen.map(formatListenUri), ['unix:/run/user/7/orion-lvm/nbd.sock']);
    assert.equal(user.controlPath, '/run/user/7/orion-lvm/control.sock');
    assert.equal(user.socketMode, 0o600);
    const root = load({}, { uid: 0, env: {} });
    assert.deepEqual(root.devices, []);
    assert.equal(root.runDir, '/run/orion-lvm');
  });

  test('only root serves every block device', () => {
    refused({}, /no devices to serve: give --devices, \$ORION_LVM_DEVICES or devices in lvm.toml/);
  });

  test('no run-time directory is an error only where a socket needs it', () => {
    refused({ devices: ['a'] }, /listen: "nbd.sock" is in the run-time directory and there is none/, { env: {} });
    const settings = load({ devices: ['a'], listen: ['unix:n.sock'], control: 'c.sock' }, { env: {} });
    assert.deepEqual(settings.listen.map(formatListenUri), [`unix:${join(folder, 'cwd/n.sock')}`]);
    assert.equal(settings.controlPath, join(folder, 'cwd/c.sock'));
  });

  test('search: --config, $ORION_LVM_CONFIG, ./lvm.toml, the system file', () => {
    const files = ['flag.toml', 'env.toml', 'cwd/lvm.toml', 'etc/lvm.toml'].map((name) => join(folder, name));
    for (const file of files) writeFileSync(file, 'devices = ["x.img"]\n');
    const env = { XDG_RUNTIME_DIR: '/run/user/7', ORION_LVM_CONFIG: join(folder, 'env.toml') };
    const flags = { config: '../flag.toml' };
    assert.equal(load(flags, { env }).configFile, files[0]);
    assert.deepEqual(load(flags, { env }).devices, [join(folder, 'x.img')], "from the file's directory");
    assert.equal(load({}, { env }).configFile, files[1]);
    assert.equal(load({}).configFile, files[2]);
    rmSync(join(folder, 'cwd/lvm.toml'));
    assert.equal(load({}).configFile, files[3]);
    rmSync(join(folder, 'etc/lvm.toml'));
    refused({ config: 'none.toml' }, /cannot read the config file .*none.toml: no such file/);
    refused({}, /cannot read the config file/, { env: { ORION_LVM_CONFIG: 'none.toml' } });
    refused({ config: '.' }, /cannot read the config file .*: it is a directory/);
  });

  test('precedence: flag, environment, file', () => {
    const text = 'devices = ["/f"]\nread_only = true\nlisten = ["tcp:h:1"]\ncontrol = "/c"\n[log]\nlevel = "warn"\n';
    writeFileSync(join(folder, 'all.toml'), text);
    const config = join(folder, 'all.toml');
    const env = { ORION_LVM_DEVICES: '/e1,,/e2' };
    assert.deepEqual(load({ config, devices: ['/d'] }, { env }).devices, ['/d']);
    assert.deepEqual(load({ config }, { env }).devices, ['/e1', '/e2']);
    assert.deepEqual(load({ config }).devices, ['/f']);
    const file = load({ config });
    assert.deepEqual([file.readOnly, file.logLevel, file.controlPath], [true, 'warn', '/c']);
    assert.deepEqual(file.listen, [{ kind: 'tcp', host: 'h', port: 1 }]);
    const flags = load({ config, logLevel: 'debug', control: '/d', listen: ['tcp:[::1]', 'unix:/u'] });
    assert.deepEqual([flags.logLevel, flags.controlPath], ['debug', '/d']);
    assert.deepEqual(flags.listen.map(formatListenUri), ['tcp:[::1]:10809', 'unix:/u']);
  });

  const engineOf = (flags: Flags, changes: Partial<Surroundings> = {}): readonly unknown[] => {
    const { engine, note } = load({ devices: ['a'], ...flags }, changes).engine;
    return [engine, note];
  };
  test('io_uring is taken where there is one, said to be missing, and refused if it was asked for by name', () => {
    const without = { uringProblem: () => 'EPERM (operation not permitted)' };
    assert.deepEqual(engineOf({}, { uringProblem: () => null }), ['uring', null]);
    assert.deepEqual(engineOf({ engine: 'uring' }), ['uring', null]);
    assert.deepEqual(engineOf({ engine: 'threads' }, { uringProblem: () => assert.fail() }), ['threads', null]);
    const note = 'io_uring is not available (EPERM (operation not permitted)): devices are served by threads';
    assert.deepEqual(engineOf({}, without), ['threads', note]);
    refused({ devices: ['a'], engine: 'uring' }, /--engine: "uring" is not possible here: io_uring: EPERM/, without);
    writeFileSync(join(folder, 'engine.toml'), 'engine = "uring"\n');
    refused({ devices: ['a'], config: join(folder, 'engine.toml') }, /engine.toml: engine: "uring" is not/, without);
  });

  test('which devices go past the page cache: lists before the rule, buffered before direct', () => {
    const text =
      'devices = ["x"]\ndirect = true\ndirect_devices = ["disks/*"]\nbuffered_devices = ["/dev/loop*", "disks/b"]\n';
    writeFileSync(join(folder, 'direct.toml'), text);
    const { direct } = load({ config: join(folder, 'direct.toml') }).engine;
    const asked = ['disks/a', 'disks/b', 'x'].map((name) => directOf(direct, join(folder, name)));
    assert.deepEqual([...asked, directOf(direct, '/dev/loop0')], [true, false, true, false]);
    assert.equal(directOf(load({ devices: ['x'] }).engine.direct, '/dev/sda'), 'auto');
  });

  function loaded(text: string): Settings {
    writeFileSync(join(folder, 'cache.toml'), `devices = ["x"]\n${text}`);
    return load({ config: join(folder, 'cache.toml') });
  }

  test('a cache needs a size and a policy; one without the other is said to do nothing', () => {
    const { engine, withoutEffect } = loaded(
      'cache_size = 1048576\ncache_policy = "writeback"\nio_scheduler = "deadline"\n',
    );
    assert.deepEqual(engine.cache, { sizeBytes: 2 ** 20, policy: 'writeback' });
    assert.equal(engine.scheduler, 'deadline');
    assert.deepEqual(withoutEffect, []);
    assert.equal(engine.busyPoll, 50);
    assert.equal(loaded('busy_poll = 0\n').engine.busyPoll, 0);
    const alone = loaded('cache_size = 1048576\n');
    assert.equal(alone.engine.cache, null);
    assert.deepEqual(alone.withoutEffect, ['cache_size has no effect: cache_policy is "none"']);
    assert.match(loaded('cache_policy = "writethrough"\n').withoutEffect.join(), /cache_size is 0/);
  });

  test('a reload applies every key of the daemon, or says that it takes a restart; the example says which', () => {
    const changes: Readonly<Record<string, string>> = {
      devices: 'devices = ["y"]',
      read_only: 'read_only = true',
      engine: 'engine = "threads"',
      busy_poll: 'busy_poll = 1',
      direct: 'direct = true',
      direct_devices: 'direct_devices = ["d"]',
      buffered_devices: 'buffered_devices = ["d"]',
      workers: 'workers = 7',
      listen: 'listen = ["unix:other.sock"]',
      control: 'control = "other.sock"',
      run_dir: 'run_dir = "/other"',
      default_export: 'default_export = "vg/lv"',
      socket_mode: 'socket_mode = "0660"',
      socket_group: 'socket_group = "0"',
      system_id: 'system_id = "other"',
      extra_system_ids: 'extra_system_ids = ["other"]',
      metadata_backup_interval: 'metadata_backup_interval = 5',
      rescan_interval: 'rescan_interval = 5',
      auto_recovery: 'auto_recovery = true',
      cache_size: 'cache_policy = "writeback"\ncache_size = 1048576',
      io_scheduler: 'io_scheduler = "deadline"',
      log: '[log]\nlevel = "debug"',
      activation: '[activation]\nauto_activation_volume_list = []',
      access: '[access]\nobservers = ["user:1"]',
      exports: '[[exports]]\nvolumes = ["vg"]\nread_only = true',
      audit: '[audit]\nfile = "/other"',
      metrics: '[metrics]\nlisten = "tcp:127.0.0.1:1"',
      events: '[events]\ninterval = 5',
      limits: '[limits]\nconnections = 5',
    };
    const withUring = { uringProblem: (): null => null };
    const loadedWith = (text: string): Settings => {
      writeFileSync(join(folder, 'reload.toml'), `${text.startsWith('devices') ? '' : 'devices = ["x"]\n'}${text}\n`);
      return load({ config: join(folder, 'reload.toml') }, withUring);
    };
    const example = readFileSync(join(CHECKOUT, 'lvm.toml.example'), 'utf8');
    const before = loadedWith('');
    for (const [key, text] of Object.entries(changes)) {
      const after = loadedWith(text);
      const told = restartKeys(before, after);
      assert.notDeepEqual(after, before, `${key}: the text changes nothing`);
      // What is neither told nor applied would be as it was, and nobody would know.
      if (told.length === 0) assert.deepEqual({ ...before, ...appliedBy(after) }, after, key);
      const said = new RegExp(`\\(([^)]*; )?reload\\)\\n(# )?${key} = `).test(example);
      if (!text.startsWith('[')) assert.equal(said, told.length === 0, key);
    }
  });

  test('what this build cannot do is refused by name', () => {
    refused({ devices: ['a'], workers: 257 }, /--workers: 257 is not allowed: it must be a whole number from 0 to 256/);
  });

  const addresses: readonly (readonly [string, RegExp])[] = [
    [
      'foo',
      /--listen: "foo" is not allowed: it starts with none of unix:, tcp: and vsock:; it must be unix:\/path.sock/,
    ],
    ['unix:', /the path is missing/],
    ['tcp:', /host and port are not to be made out/],
    ['tcp:host:99999', /port 99999 is above 65535/],
    ['tcp:host:12x', /not to be made out/],
    ['tcp:a b:1', /not to be made out/],
    ['tcp:::1:10809', /not to be made out/],
    [`unix:/${'x'.repeat(108)}`, /the path has 109 bytes and a socket's path at most 107/],
    ['unix:/a\0b', /the path holds a NUL/],
  ];
  for (const [uri, message] of addresses) {
    test(`refuses --listen ${JSON.stringify(uri).slice(0, 40)}`, () => {
      refused({ devices: ['a'], listen: [uri] }, message);
    });
  }
});

describe('flags', () => {
  test('are plain data', () => {
    assert.equal(
      output(['--devices', 'a,b', '--devices=c', '--listen', 'tcp:h:1', '--read-only', '--workers', '0']),
      '{"devices":["a","b","c"],"listen":["tcp:h:1"],"readOnly":true,"workers":0}',
    );
    assert.equal(output([]), '{}');
    assert.match(output(['--version']), /^0 1.2.3/);
    assert.match(output(['--help']), /^0 Usage: orion-lvmd/);
  });

  const wrong: readonly (readonly [readonly string[], RegExp])[] = [
    [
      ['--devicse', 'x'],
      /^3 orion-lvmd: unknown option '--devicse'\n\(Did you mean --devices\?\)\nRun 'orion-lvmd --help' for more/,
    ],
    [['--devices'], /^3 orion-lvmd: option '--devices <path,...>' argument missing/],
    [['--engine', 'fast'], /^3 .*'fast' is invalid. Allowed choices are auto, uring, threads/],
    [['--log-level', 'x'], /^3 .*Allowed choices are trace/],
    [['--workers', 'many'], /^3 .*It must be a whole number/],
    [['disk.img'], /^3 orion-lvmd: too many arguments/],
  ];
  for (const [args, message] of wrong) {
    test(`refuses ${args.join(' ')}`, () => {
      assert.match(output(args), message);
    });
  }
});
