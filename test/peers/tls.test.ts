/**
 * TLS with clients of others, and with the files that `orion-lvm tls init` makes for them: nbdinfo and nbdcopy (GnuTLS), qemu-img (GnuTLS),
 * certificates and pre-shared keys, TLS 1.2 and 1.3; openssl's judgement of the certificates; libnbd's connect_command with --stdio.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { EXTENT, TestGroup } from '../daemon/images.ts';
import { statusOf, waitForStatus } from '../daemon/status-of.ts';
import { type RunningDaemon, startDaemon } from '../helpers/daemon.ts';
import { mustRun, runProgram } from '../helpers/run.ts';
import { CHECKOUT } from '../helpers/shared.ts';
import { makeCredentials } from '../helpers/tls.ts';

const SIZE = 24 * EXTENT;

describe('TLS', { timeout: 120_000 }, () => {
  let folder = '';
  let image = '';
  let tls = '';
  let daemon: RunningDaemon;
  let port = 0;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'orion-lvm-tls-peers-'));
    image = (await new TestGroup(join(folder, 'vg.img'), 'vg').write([{ name: 'lv', extent: 0, extents: 24 }])).path;
    tls = join(folder, 'tls');
    await makeCredentials(tls, ['alice', 'bob']);
    const args = ['--listen', 'tcp:127.0.0.1:0', '--tls-certificates', tls, '--tls-psk', join(tls, 'keys.psk')];
    daemon = await startDaemon([image], [...args, '--tls-verify-clients', '--log-level', 'debug']);
    await waitForStatus(daemon, 'the daemon to serve', ({ state }) => state === 'serving');
    port = Number(/^tcp:127\.0\.0\.1:(\d+)\?tls=required$/.exec((await statusOf(daemon)).listening[1] ?? '')?.[1]);
  });
  after(async () => {
    assert.equal(await daemon.stop(), 0, daemon.log());
    await rm(folder, { recursive: true, force: true });
  });

  const byCertificate = (name: string): string => `nbds://127.0.0.1:${port}/vg/lv?tls-certificates=${join(tls, name)}`;
  const byKey = (name: string): string =>
    `nbds://${name}@127.0.0.1:${port}/vg/lv?tls-psk-file=${join(tls, name, 'keys.psk')}`;

  test('openssl finds nothing wrong with the certificates', async () => {
    const verify = (purpose: string, path: string): Promise<string> =>
      mustRun('openssl', ['verify', '-x509_strict', '-purpose', purpose, '-CAfile', join(tls, 'ca-cert.pem'), path]);
    await verify('sslserver', join(tls, 'server-cert.pem'));
    await verify('sslclient', join(tls, 'alice', 'client-cert.pem'));
    const wrong = ['verify', '-x509_strict', '-purpose', 'sslserver', '-CAfile', join(tls, 'ca-cert.pem')];
    assert.notEqual((await runProgram('openssl', [...wrong, join(tls, 'alice', 'client-cert.pem')])).status, 0);
    const text = await mustRun('openssl', ['x509', '-noout', '-text', '-in', join(tls, 'server-cert.pem')]);
    assert.match(text, /DNS:localhost, IP Address:127\.0\.0\.1/);
    assert.match(text, /Public-Key: \(3072 bit\)/);
  });

  test('nbdinfo, with a certificate and with a key', async () => {
    for (const uri of [byCertificate('alice'), byKey('bob')]) {
      const info = JSON.parse(await mustRun('nbdinfo', ['--json', uri])) as {
        TLS: boolean;
        exports: { 'export-size': number }[];
      };
      assert.equal(info.TLS, true);
      assert.equal(info.exports[0]?.['export-size'], SIZE);
    }
    const { status, stderr } = await runProgram('nbdinfo', ['--size', `nbd://127.0.0.1:${port}/vg/lv`]);
    assert.notEqual(status, 0);
    assert.match(stderr, /TLS/);
    assert.match(daemon.log(), /"subject":"CN=alice,O=Orion LVM"/);
    assert.match(daemon.log(), /"pskName":"bob","protocol":"TLSv1\.3"/);
  });

  test('nbdcopy writes, qemu-img reads, and it is the same', async () => {
    const [source, copy] = [join(folder, 'source'), join(folder, 'copy')];
    await writeFile(source, randomBytes(SIZE));
    await mustRun('nbdcopy', ['--flush', '--connections=1', source, byCertificate('alice')]);
    const server = `driver=nbd,host=127.0.0.1,port=${port},export=vg/lv,tls-creds=t`;
    const objects = [
      `tls-creds-x509,id=t,endpoint=client,dir=${join(tls, 'alice')}`,
      `tls-creds-psk,id=t,endpoint=client,dir=${join(tls, 'bob')},username=bob`,
      // Without TLS 1.3.
      `tls-creds-x509,id=t,endpoint=client,dir=${join(tls, 'bob')},priority=NORMAL:-VERS-TLS1.3`,
      `tls-creds-psk,id=t,endpoint=client,dir=${join(tls, 'bob')},username=bob,priority=NORMAL:-VERS-TLS1.3:+ECDHE-PSK:+DHE-PSK`,
    ];
    for (const object of objects) {
      await mustRun('qemu-img', ['convert', '--object', object, '--image-opts', server, '-O', 'raw', copy]);
      assert.ok((await readFile(copy)).equals(await readFile(source)), object);
    }
    assert.match(daemon.log(), /"protocol":"TLSv1\.2","cipher":"ECDHE-RSA-AES128-GCM-SHA256"/);
    assert.match(daemon.log(), /"pskName":"bob","protocol":"TLSv1\.2","cipher":"(ECDHE|DHE)-PSK-/);
  });

  test('nbdcopy over several connections at once', async () => {
    const uri = byKey('alice');
    const copy = join(folder, 'parallel');
    await mustRun('nbdcopy', ['--connections=4', '--requests=32', uri, copy]);
    await mustRun('nbdcopy', ['--connections=4', '--flush', copy, byCertificate('bob')]);
    await mustRun('qemu-img', [
      'compare',
      '--object',
      `tls-creds-x509,id=t,endpoint=client,dir=${join(tls, 'alice')}`,
      '--image-opts',
      `driver=nbd,host=127.0.0.1,port=${port},export=vg/lv,tls-creds=t`,
      `driver=file,filename=${copy}`,
    ]);
    await waitForStatus(daemon, 'all to have left', (status) => status.connections === 0);
    assert.ok((await statusOf(daemon)).tls.length > 0);
  });
});

describe('--stdio', { timeout: 60_000 }, () => {
  let folder = '';
  let command: readonly string[] = [];
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'orion-lvm-stdio-'));
    const { path } = await new TestGroup(join(folder, 'vg.img'), 'vg').write([{ name: 'lv', extent: 0, extents: 4 }]);
    const flags = ['--stdio', '--devices', path, '--control', join(folder, 'control.sock'), '--log-level', 'warn'];
    command = [join(CHECKOUT, 'bin/orion-lvmd'), ...flags];
  });
  after(() => rm(folder, { recursive: true, force: true }));

  const SCRIPT = [
    'import nbd, sys',
    'h = nbd.NBD()',
    'h.set_export_name("vg/lv")',
    'h.connect_command(sys.argv[1:])',
    'data = bytes(range(256)) * 1024',
    'h.pwrite(data, 4096)',
    'assert h.pread(len(data), 4096) == data',
    'h.flush()',
    'print(h.get_size())',
    'h.shutdown()',
  ].join('\n');

  test("libnbd's connect_command: over one socket, with workers, and between pipes", async () => {
    const whole = command.map((word) => `'${word}'`).join(' ');
    for (const argv of [command, [...command, '--workers', '1'], ['sh', '-c', `cat | ${whole} | cat`]]) {
      assert.equal(await mustRun('/usr/bin/python3', ['-c', SCRIPT, ...argv]), `${4 * EXTENT}\n`);
    }
  });

  test('it ends with its client, with 0, and says nothing else on standard output', async () => {
    const [program = '', ...args] = command;
    const { status, stdout } = await runProgram(program, args, { input: 'no NBD' });
    assert.deepEqual([status, stdout.slice(0, 16)], [0, 'NBDMAGICIHAVEOPT']);
    const both = await runProgram(program, [...args, '--listen', 'tcp:127.0.0.1:0']);
    assert.equal(both.status, 3);
    assert.match(both.stderr, /--stdio: one client is served/);
  });
});
