/** `orion-lvm tls init`: what it makes, what it leaves alone, and what it refuses. (That peers take it is test/peers/tls.test.ts's.) */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { readTlsMaterial, type TlsFiles } from '../../src/daemon/tls/material.ts';
import { mustRun } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';
import { tlsCommand } from '../helpers/tls.ts';

function filesOf(directory: string): Record<string, string> {
  const paths = readdirSync(directory, { recursive: true, encoding: 'utf8' }).sort();
  const files = paths.filter((path) => statSync(join(directory, path)).isFile());
  return Object.fromEntries(files.map((path) => [path, readFileSync(join(directory, path), 'utf8')]));
}

function problemsOf(files: Partial<TlsFiles>): string {
  const problems: string[] = [];
  const material = readTlsMaterial({ certificates: null, pskFile: null, verifyClients: false, ...files }, problems);
  assert.equal(material === null, problems.length > 0);
  return problems.join('\n');
}

test('certificates: made once, added to, never written over; and what the daemon says of bad ones', async () => {
  await withTemporaryFolder(async (folder) => {
    const dir = join(folder, 'new', 'tls');
    const first = await tlsCommand([
      'init',
      '--dir',
      dir,
      '--host',
      'a.example,10.0.0.7,::1',
      '--client',
      'alice',
      '--client',
      'bob',
      '--days',
      '9',
    ]);
    assert.deepEqual([first.code, first.err], [0, '']);
    assert.match(first.out, /"dn:CN=alice,O=Orion LVM"/);
    const before = filesOf(dir);
    const client = ['ca-cert.pem', 'client-cert.pem', 'client-key.pem'];
    const expected = ['alice', 'bob'].flatMap((name) => client.map((file) => `${name}/${file}`));
    const own = ['ca-cert.pem', 'ca-key.pem', 'server-cert.pem', 'server-key.pem'];
    assert.deepEqual(Object.keys(before).toSorted(), [...expected, ...own].toSorted());
    for (const path of Object.keys(before)) {
      if (path.endsWith('key.pem')) assert.equal(statSync(join(dir, path)).mode & 0o777, 0o600, path);
    }
    const authority = new X509Certificate(before['ca-cert.pem'] ?? '');
    const server = new X509Certificate(before['server-cert.pem'] ?? '');
    assert.ok(authority.ca && !server.ca && server.verify(authority.publicKey) && server.checkIssued(authority));
    assert.equal(server.subjectAltName, 'DNS:a.example, IP Address:10.0.0.7, IP Address:0:0:0:0:0:0:0:1');
    const days = (Date.parse(server.validTo) - Date.now()) / 86_400_000;
    assert.ok(days > 8.9 && days <= 9, String(days));

    const more = await tlsCommand(['init', '--dir', dir, '--client', 'carol']);
    assert.deepEqual([more.code, more.err], [0, '']);
    const after = filesOf(dir);
    for (const [path, text] of Object.entries(before)) assert.equal(after[path], text, path);
    const carol = new X509Certificate(after['carol/client-cert.pem'] ?? '');
    assert.ok(carol.verify(authority.publicKey));
    for (const args of [[], ['--client', 'alice'], ['--host', 'b.example', '--client', 'dan']]) {
      const { code, err } = await tlsCommand(['init', '--dir', dir, ...args]);
      assert.equal(code, 5);
      assert.match(err, /exists: nothing is written over/);
    }
    assert.deepEqual(filesOf(dir), after);

    const files = { certificates: dir, verifyClients: true };
    assert.equal(problemsOf(files), '');
    chmodSync(join(dir, 'server-key.pem'), 0o644);
    assert.match(problemsOf(files), /everybody may read or write .*server-key\.pem \(mode 644\)/);
    chmodSync(join(dir, 'server-key.pem'), 0o600);
    writeFileSync(join(dir, 'server-key.pem'), before['ca-key.pem'] ?? '');
    assert.match(problemsOf(files), /can't be used: .*key values mismatch/i);
    writeFileSync(join(dir, 'server-key.pem'), before['server-key.pem'] ?? '');
    rmSync(join(dir, 'ca-key.pem'));
    assert.match(
      (await tlsCommand(['init', '--dir', dir, '--client', 'x'])).err,
      /ca-cert\.pem exists without .*ca-key\.pem/,
    );
    rmSync(join(dir, 'ca-cert.pem'));
    assert.match(problemsOf(files), /cannot read .*ca-cert\.pem/);
    assert.equal(problemsOf({ certificates: dir }), '');
  });
});

test('keys: each client has his own, the daemon all; and what the daemon says of bad ones', async () => {
  await withTemporaryFolder(async (folder) => {
    const path = join(folder, 'keys.psk');
    assert.equal((await tlsCommand(['init', '--psk', '--dir', folder, '--client', 'alice,bob'])).code, 0);
    assert.equal((await tlsCommand(['init', '--psk', '--dir', folder, '--client', 'carol'])).code, 0);
    const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
    assert.deepEqual(
      lines.map((line) => line.split(':')[0]),
      ['alice', 'bob', 'carol'],
    );
    assert.equal(new Set(lines.map((line) => line.split(':')[1])).size, 3);
    for (const line of lines) {
      assert.match(line, /^\w+:[0-9a-f]{64}$/);
      assert.equal(readFileSync(join(folder, line.split(':')[0] ?? '', 'keys.psk'), 'utf8'), `${line}\n`);
    }
    assert.equal(statSync(path).mode & 0o777, 0o600);
    const again = await tlsCommand(['init', '--psk', '--dir', folder, '--client', 'dan,bob']);
    assert.deepEqual([again.code, existsSync(join(folder, 'dan'))], [5, false]);
    assert.match(again.err, /keys\.psk has a key of bob already/);

    assert.equal(problemsOf({ pskFile: path }), '');
    const bad: readonly (readonly [string, RegExp])[] = [
      ['alice', /:1: no "name:key"/],
      ['alice:xyz', /the key of alice is not in hexadecimal/],
      ['alice:00ff', /the key of alice has 2 bytes, 16 to 64/],
      [`a:${'00'.repeat(16)}\n# b\na:${'11'.repeat(16)}`, /:3: a second key for a/],
      ['# nothing', /holds no key/],
    ];
    for (const [text, problem] of bad) {
      writeFileSync(path, text);
      const said = problemsOf({ pskFile: path });
      assert.match(said, problem);
      assert.ok(!said.includes('00ff') && !said.includes('xyz'), 'keys are not told');
    }
    assert.match(problemsOf({ pskFile: path, verifyClients: true }), /tls\.verify_clients: needs tls\.certificates/);
    assert.match(problemsOf({ verifyClients: true }), /tls\.verify_clients: needs tls\.certificates/);
  });
});

test('a file of keys: added to by many at once, whole or not at all, and never behind a line that is none', async () => {
  await withTemporaryFolder(async (folder) => {
    const dir = join(folder, 'tls');
    const path = join(dir, 'keys.psk');
    const names = Array.from({ length: 8 }, (_, index) => `client${index}`);
    const env = { ...process.env, LVM_SYSTEM_DIR: folder, ORION_LVM_CONTROL: '' };
    const program = join(CHECKOUT, 'bin/orion-lvm');
    await Promise.all(
      names.map((name) => mustRun(program, ['tls', 'init', '--psk', '--dir', dir, '--client', name], { env })),
    );
    const keys = readFileSync(path, 'utf8').trimEnd().split('\n');
    assert.deepEqual(keys.map((line) => line.split(':')[0] ?? '').toSorted(), names);
    assert.equal(problemsOf({ pskFile: path }), '');

    // As an administrator has it: for a group, behind a link, without a last line end.
    const real = join(folder, 'real.psk');
    renameSync(path, real);
    symlinkSync(real, path);
    writeFileSync(real, readFileSync(real, 'utf8').trimEnd());
    chmodSync(real, 0o644);
    const { ino } = statSync(real);
    assert.equal((await tlsCommand(['init', '--psk', '--dir', dir, '--client', 'link'])).code, 0);
    assert.ok(lstatSync(path).isSymbolicLink());
    assert.notEqual(statSync(real).ino, ino);
    assert.equal(statSync(real).mode & 0o777, 0o640);
    assert.equal(problemsOf({ pskFile: path }), '');
    assert.equal(readFileSync(real, 'utf8').split('\n').length, names.length + 2);
    assert.deepEqual(readdirSync(folder).toSorted(), ['real.psk', 'tls']);

    const whole = readFileSync(real, 'utf8');
    writeFileSync(real, `${whole}zoe:0011`);
    const cut = await tlsCommand(['init', '--psk', '--dir', dir, '--client', 'next']);
    assert.equal(cut.code, 5);
    assert.match(cut.err, /keys\.psk:10: the key of zoe has 2 bytes[^]*is not changed: mend or remove that first/);
    assert.deepEqual([readFileSync(real, 'utf8'), existsSync(join(dir, 'next'))], [`${whole}zoe:0011`, false]);
    writeFileSync(real, whole);
    // What a crash between the two files leaves.
    mkdirSync(join(dir, 'next'));
    writeFileSync(join(dir, 'next/keys.psk'), 'next:00');
    const left = await tlsCommand(['init', '--psk', '--dir', dir, '--client', 'next']);
    assert.deepEqual(
      [left.code, /next\/keys\.psk exists, and .*has no key of next: remove it first/.test(left.err)],
      [5, true],
    );
    // Nothing is left of what can't be done to its end.
    mkdirSync(join(folder, 'real.psk.new'));
    assert.equal((await tlsCommand(['init', '--psk', '--dir', dir, '--client', 'last'])).code, 5);
    assert.deepEqual([readFileSync(real, 'utf8'), existsSync(join(dir, 'last/keys.psk'))], [whole, false]);
  });
});

test('what it is not told right', async () => {
  const wrong: readonly (readonly [readonly string[], RegExp])[] = [
    [[], /Please say what to do: tls init/],
    [['make'], /Please say what to do/],
    [['init', '--host', 'a b'], /host/],
    [['init', '--host', ','], /host/],
    [['init', '--client', '../x'], /client/],
    [['init', '--days', '0'], /days/],
  ];
  for (const [args, message] of wrong) {
    const { code, err } = await tlsCommand(args);
    assert.equal(code, 3, args.join(' '));
    assert.match(err, message);
  }
});
