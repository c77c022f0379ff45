/**
 * `orion-lvm backup` and `restore` on NBD URIs: our daemon over TCP with TLS (certificates of both sides, pre-shared keys), nbdkit with the
 * same and with less than our daemon offers, and servers that are not who they should be.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { copyFile, mkdir, readdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { StreamOutput } from '../../src/cli/messages.ts';
import { run } from '../../src/cli/run.ts';
import { NbdClient } from '../../src/daemon/client/nbd-client.ts';
import { isNbdUri, parseNbdUri } from '../../src/daemon/client/nbd-uri.ts';
import { statusOf } from '../daemon/status-of.ts';
import { accepts, type RunningDaemon, startDaemon, waitFor } from '../helpers/daemon.ts';
import { mustRun, type Outcome, runProgram } from '../helpers/run.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';
import { NOBODY } from '../helpers/terminal.ts';
import { makeCredentials } from '../helpers/tls.ts';

const MIB = 2 ** 20;

/** Runs `orion-lvm …` in this process. */
async function command(folder: string, args: readonly string[], control = ''): Promise<Outcome> {
  let stdout = '';
  let stderr = '';
  const output = new StreamOutput({ write: (text) => (stdout += text) }, { write: (text) => (stderr += text) });
  const env = { LVM_SYSTEM_DIR: folder, ORION_LVM_CONTROL: control, ORION_LVM_DEVICES: join(folder, 'pv0') };
  const now = Math.floor(Date.now() / 1000);
  const status = await run(args, output, { env, cwd: folder, uid: process.getuid?.() ?? 0, now, terminal: NOBODY });
  output.flush();
  return { status, stdout, stderr };
}

async function must(folder: string, args: readonly string[], control = ''): Promise<string> {
  const { status, stdout, stderr } = await command(folder, args, control);
  assert.equal(status, 0, `${args.join(' ')}: ${stderr}`);
  return stdout;
}

async function refused(folder: string, args: readonly string[], message: RegExp, status = 5): Promise<void> {
  const outcome = await command(folder, args);
  assert.match(outcome.stderr, message);
  assert.equal(outcome.status, status, outcome.stderr);
  assert.deepEqual(
    (await readdir(folder)).filter((name) => name.includes('refused')),
    [],
  );
}

/** A daemon with TLS on 127.0.0.1, and without on a unix socket; vg/o and vg/r have 24 MiB. */
interface Elsewhere {
  readonly folder: string;
  readonly daemon: RunningDaemon;
  readonly control: string;
  /** host:port */
  readonly at: string;
  readonly tls: string;
}

async function withElsewhere(use: (stand: Elsewhere) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const image = join(folder, 'pv0');
    await writeFile(image, '');
    await truncate(image, 256 * MIB);
    await must(folder, ['vgcreate', 'vg', image]);
    for (const name of ['o', 'r']) await must(folder, ['lvcreate', '-L24M', '-n', name, 'vg']);
    const tls = join(folder, 'tls');
    await makeCredentials(tls, ['alice', 'bob']);
    const listen = ['--listen', 'tcp:127.0.0.1:0', '--tls-certificates', tls, '--tls-psk', join(tls, 'keys.psk')];
    const daemon = await startDaemon([image], [...listen, '--tls-verify-clients']);
    try {
      const control = join(dirname(daemon.socket), 'control.sock');
      await waitFor('the daemon to serve', async () => (await statusOf(daemon)).state === 'serving');
      const at = /^tcp:(.*)\?tls=required$/.exec((await statusOf(daemon)).listening[1] ?? '')?.[1] ?? '';
      await use({ folder, daemon, control, at, tls });
    } finally {
      assert.equal(await daemon.stop(), 0, daemon.log());
    }
  });
}

/** By the daemon, as in a shell. */
async function snapshot({ folder, control }: Elsewhere, name: string): Promise<void> {
  const args = ['lvcreate', '-s', '-L12M', '-n', name, 'vg/o'];
  const env = { LVM_SYSTEM_DIR: folder, ORION_LVM_CONTROL: control, ORION_LVM_DEVICES: join(folder, 'pv0') };
  await mustRun(join(CHECKOUT, 'bin/orion-lvm'), args, { cwd: folder, env });
}

async function scribble({ daemon }: Elsewhere, ranges: readonly (readonly [number, number])[]): Promise<void> {
  const target = { server: `unix:${daemon.socket}`, exportName: 'vg/o', contexts: [], timeoutMs: 10_000 };
  const client = await NbdClient.connect(target);
  for (const [offset, length] of ranges) await client.write(offset, randomBytes(length));
  await client.flush();
  await client.close();
}

async function content({ daemon, folder }: Elsewhere, lv: string): Promise<Buffer> {
  const path = join(folder, `content-${lv}`);
  await mustRun('nbdcopy', [daemon.uri(`vg/${lv}`), path]);
  return readFile(path);
}

/** nbdkit with a file of 4 MiB; ends with `use`. */
async function withNbdkit(
  folder: string,
  options: readonly string[],
  use: (socket: string, file: string) => Promise<void>,
): Promise<void> {
  // nbdkit leaves its socket behind.
  const [socket, file] = [join(folder, `${randomBytes(4).toString('hex')}.sock`), join(folder, 'disk')];
  await writeFile(file, Buffer.concat([randomBytes(MIB), Buffer.alloc(2 * MIB), randomBytes(MIB)]));
  const child: ChildProcess = spawn('nbdkit', ['-f', '-U', socket, ...options, 'file', file], { stdio: 'ignore' });
  const ended = once(child, 'exit');
  try {
    await waitFor('nbdkit to listen', () => accepts(socket));
    await use(socket, file);
  } finally {
    child.kill();
    await ended;
  }
}

describe('backup and restore over TLS', { timeout: 120_000 }, () => {
  test('of a daemon elsewhere: certificates, keys, increments, and chains with backups made here', async () => {
    await withElsewhere(async (stand) => {
      const { folder, control, at, tls } = stand;
      const alice = (lv: string): string => `nbds://${at}/vg/${lv}?tls-certificates=tls/alice`;
      const bob = (lv: string): string => `nbds://bob@${at}/vg%2F${lv}?tls-psk-file=${join(tls, 'keys.psk')}`;
      await scribble(stand, [
        [0, 3 * MIB],
        [13 * MIB + 100, 5000],
      ]);
      await snapshot(stand, 's0');
      await scribble(stand, [[5 * MIB + 7, 90_000]]);
      await snapshot(stand, 's1');
      await scribble(stand, [[9 * MIB, 70_000]]);
      await snapshot(stand, 's2');
      assert.match(
        await must(folder, ['backup', alice('s0'), 'b0']),
        /^ {2}vg\/s0 backed up to b0: 3\.0\d MiB of data/,
      );
      // One is made on the daemon's own host.
      await must(folder, ['backup', 'vg/s1', '--since', 's0', 'b1'], control);
      assert.match(
        await must(folder, ['backup', bob('s2'), '--since', 'vg/s1', 'b2']),
        /Changes of vg\/s2 since s1 backed up/,
      );
      assert((await readFile(join(folder, 'b2'))).length < MIB);
      assert.match(
        await must(folder, ['restore', '-y', 'b0', 'b1', 'b2', bob('r')]),
        /vg\/r at tcp:127\.0\.0\.1:\d+ restored/,
      );
      assert((await content(stand, 'r')).equals(await content(stand, 's2')));
      await must(folder, ['restore', '-y', 'b0', alice('r')]);
      assert((await content(stand, 'r')).equals(await content(stand, 's0')));
      await refused(folder, ['restore', 'b0', alice('r')], /vg\/r at tcp:127\.0\.0\.1:\d+ not restored/);
      await refused(folder, ['backup', alice('o'), '--since', 'r', 'refused'], /vg\/r is no snapshot with which vg\/o/);
    });
  });

  test('what is not trusted, or does not fit, is refused with the way out', async () => {
    await withElsewhere(async (stand) => {
      const { folder, daemon, at, tls } = stand;
      const port = at.slice(at.indexOf(':') + 1);
      const keys = join(tls, 'keys.psk');
      const others = join(folder, 'others');
      await makeCredentials(others, ['alice']);
      await mkdir(join(folder, 'nobody'));
      await copyFile(join(tls, 'ca-cert.pem'), join(folder, 'nobody/ca-cert.pem'));
      const wrongKey = (await readFile(keys, 'utf8')).replace(/[0-9a-f]{8}$/gm, '00000000');
      await writeFile(join(folder, 'wrong.psk'), wrongKey);
      const socket = `?socket=${daemon.socket}`;
      const cases: readonly (readonly [string, RegExp, number?])[] = [
        [`nbd://${at}/vg/o`, /vg\/o at tcp:127\.0\.0\.1:\d+: .*TLS.*nbds:\/\/HOST\/VG\/LV with \?tls-certificates=DIR/],
        [`nbds://${at}/vg/o`, /not signed by an authority that the system knows .*: name .*tls-certificates=DIR/],
        [`nbds://${at}/vg/o?tls-certificates=others/alice`, /not signed by .*others\/alice\/ca-cert\.pem/],
        [
          `nbds://${at}/vg/o?tls-certificates=tls/alice&tls-hostname=other.example`,
          /altnames.*tls-hostname=NAME instead of other\.example/,
        ],
        [`nbds://${at}/vg/o?tls-certificates=nobody`, /TLS failed: .*take the one in .*nobody\?/],
        [
          `nbds://${at}/vg/o?tls-certificates=none`,
          /cannot read .*none\/ca-cert\.pem \(the authority .*\): no such file/,
        ],
        [
          `nbds://${at}/vg/o?tls-psk-file=${keys}`,
          /has 2 keys: say whose in the URI, as in nbds:\/\/USER@HOST \(alice, bob\)/,
        ],
        [`nbds://carol@${at}/vg/o?tls-psk-file=${keys}`, /has no key of carol, only of alice, bob/],
        [
          `nbds://bob@${at}/vg/o?tls-psk-file=wrong.psk`,
          /TLS failed: .*Does the server take pre-shared keys, and this one\?/,
        ],
        [`nbds+unix:///vg/o${socket}&tls-certificates=tls/alice`, /it offers no TLS here .*nbd instead of nbds/],
        [`nbds://${at}/vg/none?tls-certificates=tls/alice`, /vg\/none at tcp:127\.0\.0\.1:\d+: .*vg\/none/],
        [`nbd+unix:///vg/o?socket=nowhere`, /vg\/o at unix:.*\/nowhere: no such file or directory$/m],
        [`nbds://${at}/vg/o?tls-certificate=tls`, /the parameter "tls-certificate" is unknown/, 3],
        [`nbd://127.0.0.1:${port}/vg/o?tls-certificates=tls`, /tls-certificates has a meaning with nbds/, 3],
        [`nbd+vsock://2/vg/o`, /nbd\+vsock can't be reached from here/, 3],
      ];
      for (const [uri, message, status] of cases) await refused(folder, ['backup', uri, 'refused'], message, status);
      // Before any image is read.
      await refused(folder, ['restore', '-y', 'missing', `nbds://${at}/vg/r?x=y`], /parameter "x" is unknown/, 3);
    });
  });

  test('nbdkit with certificates and with keys, and without structured replies and zeroes', async () => {
    await withTemporaryFolder(async (folder) => {
      const tls = join(folder, 'tls');
      await makeCredentials(tls, ['alice']);
      const certificates = [`--tls-certificates=${tls}`, '--tls-verify-peer'];
      const kinds: readonly (readonly [readonly string[], string, string])[] = [
        [['--tls=require', ...certificates], 'nbds+unix:///', '&tls-certificates=tls/alice&tls-hostname=localhost'],
        [['--tls=require', ...certificates], 'nbds+unix:///', '&tls-certificates=tls/alice'],
        [['--tls=require', `--tls-psk=${join(tls, 'keys.psk')}`], 'nbds+unix://alice@/', '&tls-psk-file=tls/keys.psk'],
        [['--tls=off', '--no-sr', '--filter=nozero', '--filter=fua'], 'nbd+unix:///', ''],
      ];
      for (const [options, scheme, parameters] of kinds) {
        await withNbdkit(folder, options, async (socket, file) => {
          const uri = `${scheme}?socket=${socket}${parameters}`;
          const before = await readFile(file);
          await must(folder, ['backup', '--force', uri, 'image']);
          await writeFile(file, Buffer.alloc(4 * MIB, 7));
          await must(folder, ['restore', '-y', 'image', uri]);
          assert((await readFile(file)).equals(before), options.join(' '));
        });
      }
      // A key is not proven by a certificate, whoever signed it.
      await withNbdkit(folder, ['--tls=require', `--tls-certificates=${tls}`], async (socket) => {
        const uri = `nbds+unix://alice@/?socket=${socket}&tls-psk-file=tls/keys.psk`;
        await refused(folder, ['backup', uri, 'refused'], /TLS failed: .*Does the server take pre-shared keys/);
      });
      await withNbdkit(folder, ['--tls=require', ...certificates], async (socket) => {
        const uri = `nbds+unix:///?socket=${socket}&tls-certificates=tls/alice&tls-hostname=elsewhere`;
        await refused(folder, ['backup', uri, 'refused'], /tls-hostname=NAME instead of elsewhere/);
      });
    });
  });

  test("the process's environment switches no check off, and an authority that it trusts stands in for no key", async () => {
    await withTemporaryFolder(async (folder) => {
      const [tls, others] = [join(folder, 'tls'), join(folder, 'others')];
      for (const directory of [tls, others]) await makeCredentials(directory, ['alice']);
      await withNbdkit(folder, ['--tls=require', `--tls-certificates=${others}`], async (socket) => {
        const key = `nbds+unix://alice@/?socket=${socket}&tls-psk-file=tls/keys.psk`;
        const certificate = `nbds+unix:///?socket=${socket}&tls-certificates`;
        const unchecked = { NODE_TLS_REJECT_UNAUTHORIZED: '0' };
        for (const [uri, variables, message] of [
          [`${certificate}=tls/alice`, unchecked, /not signed by .*tls\/alice\/ca-cert\.pem/],
          [`${certificate}=others/alice&tls-hostname=other.example`, unchecked, /tls-hostname=NAME instead of other/],
          [key, unchecked, /TLS failed: .*Does the server take pre-shared keys/],
          [
            key,
            { NODE_EXTRA_CA_CERTS: join(others, 'ca-cert.pem') },
            /it shows a certificate and does not know the key/,
          ],
        ] as const) {
          const env = { ...process.env, ...variables, LVM_SYSTEM_DIR: folder, ORION_LVM_CONTROL: '' };
          const options = { cwd: folder, env };
          const outcome = await runProgram(join(CHECKOUT, 'bin/orion-lvm'), ['backup', uri, 'refused'], options);
          assert.match(outcome.stderr, message);
          assert.equal(outcome.status, 5);
        }
      });
    });
  });

  test('plain text behind the answer to STARTTLS, and a server that goes, end it', async () => {
    await withTemporaryFolder(async (folder) => {
      await makeCredentials(join(folder, 'tls'), ['alice']);
      const acknowledged = Buffer.alloc(20);
      acknowledged.writeBigUInt64BE(0x3e889045565a9n, 0);
      acknowledged.writeUInt32BE(5, 8);
      acknowledged.writeUInt32BE(1, 12);
      for (const [answer, message] of [
        [Buffer.concat([acknowledged, acknowledged]), /it sends plain text where TLS was to begin/],
        [acknowledged, /TLS failed: /],
        [Buffer.alloc(0), /it closed the connection/],
      ] as const) {
        const server: Server = createServer((socket) => {
          socket.write(Buffer.concat([Buffer.from('NBDMAGICIHAVEOPT', 'latin1'), Buffer.from([0, 3])]));
          socket.on('error', () => undefined);
          let bytes = 0;
          socket.on('data', (chunk) => {
            bytes += chunk.length;
            // Flags and STARTTLS have 20 bytes.
            if (bytes === 20) socket.end(answer);
          });
        });
        server.listen(0, '127.0.0.1');
        await once(server, 'listening');
        const uri = `nbds://127.0.0.1:${(server.address() as AddressInfo).port}/x?tls-certificates=tls/alice`;
        await refused(folder, ['backup', uri, 'refused'], message);
        server.close();
        await once(server, 'close');
      }
    });
  });
});

const meant = (uri: string): unknown => parseNbdUri(uri, '/cwd');

test('NBD URIs: what they mean, and what is wrong with them', () => {
  assert.deepEqual(meant('nbd://host/vg/lv'), { server: 'tcp:host:10809', exportName: 'vg/lv', tls: null });
  assert.deepEqual(meant('NBD://host'), { server: 'tcp:host:10809', exportName: '', tls: null });
  assert.deepEqual(meant('nbd+unix:///a%20b%23?socket=x/y+z%26'), {
    server: 'unix:/cwd/x/y+z&',
    exportName: 'a b#',
    tls: null,
  });
  const none = { certificates: null, pskFile: null, user: null, serverName: null };
  assert.deepEqual(meant('nbds://al%40ice@[::1]:7/x?tls-psk-file=k'), {
    server: 'tcp:[::1]:7',
    exportName: 'x',
    tls: { ...none, pskFile: '/cwd/k', user: 'al@ice', serverName: '::1' },
  });
  assert.deepEqual(meant('nbds+unix://bob@/?socket=/s&tls-certificates=/c'), {
    server: 'unix:/s',
    exportName: '',
    tls: { ...none, certificates: '/c', user: 'bob' },
  });
  for (const [uri, problem] of [
    ['nbd:///x', /host is missing/],
    ['nbd://h:65536/x', /port 65536/],
    ['nbd://h/%zz', /not of the form/],
    ['nbd+unix:///x', /socket is missing/],
    ['nbd+unix://h/x?socket=/s', /no host/],
    ['nbd://bob@h/x', /user has a meaning/],
    ['nbds://h/x?tls-psk-file=a&tls-certificates=b', /exclude/],
    ['nbds://h/x?tls-psk-file=a&tls-psk-file=b', /twice/],
    ['nbds://h/x?tls-psk-file=', /no value/],
    ['nbd://h/x#y', /%23/],
    ['nbd+ssh://h/x', /can't be reached/],
  ] as const) {
    assert.ok(isNbdUri(uri));
    assert.match((meant(uri) as { readonly problem: string }).problem, problem, uri);
  }
  assert.equal(isNbdUri('vg/nbd'), false);
});
