/**
 * tls: makes what TLS needs, under the names that servers and clients look for.
 *
 *     orion-lvm tls init [--dir DIR] [--host NAMES] [--client NAME]…      certificates
 *     orion-lvm tls init --psk [--dir DIR] [--client NAME]…               pre-shared keys
 *
 *     DIR/ca-cert.pem  ca-key.pem  server-cert.pem  server-key.pem        the daemon's (tls.certificates), and qemu's names
 *     DIR/NAME/ca-cert.pem  client-cert.pem  client-key.pem               a client's: nbdinfo's and qemu's names
 *     DIR/keys.psk                                                        the daemon's (tls.psk_file)
 *     DIR/NAME/keys.psk                                                   a client's
 *
 * Invariants
 *  - No key is ever written over: on a directory where an authority is, it signs for more clients; to a file of keys more are added.
 *  - Everything is looked at before anything is written, while no other `tls init` does; files with secrets are made with mode 0600,
 *    directories with 0700 (tls/key-file.ts).
 */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { isIP } from 'node:net';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import type { Command, CommandContext } from '../command.ts';
import { CommandError, EXIT, type ExitCode } from '../messages.ts';
import type { SignedKey } from '../tls/certificates.ts';
import { alone, type NewFile, readKeys, replaceKeys, writeNew } from '../tls/key-file.ts';

const DEFAULT_DAYS = 1825;
const MAX_DAYS = 36_500;
/** Of an authority; longer, if what it signs lasts longer. */
const AUTHORITY_DAYS = 7300;
const KEY_BYTES = 32;
/** A directory's name, and a certificate's (at most 64 characters, RFC 5280). */
const CLIENT_NAME = /^[A-Za-z0-9_@][A-Za-z0-9_.@-]{0,63}$/;
const HOST_NAME = /^(\*\.)?[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?)*\.?$/;

async function run(context: CommandContext): Promise<ExitCode> {
  const { args, cwd, options } = context;
  if (args.length !== 1 || args[0] !== 'init') {
    throw new CommandError(EXIT.badUsage, ['Please say what to do: tls init.']);
  }
  const directory = resolve(cwd, options.value('dir') ?? 'tls');
  const given = listOf(options.groups.flatMap((group) => group.get('client') ?? []));
  const clients = given.length === 0 ? ['client'] : given;
  try {
    await alone(directory, () =>
      options.has('psk')
        ? makeKeys(directory, clients, context)
        : makeCertificates(directory, clients, given.length > 0, context),
    );
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && 'syscall' in error)) throw error;
    throw new CommandError(EXIT.failed, [`${error.message}.`]);
  }
  return EXIT.ok;
}

/** "a,b" and "c" as a, b, c, each once. */
function listOf(values: readonly string[]): readonly string[] {
  return [...new Set(values.flatMap((value) => value.split(',')).filter((value) => value !== ''))];
}

async function makeCertificates(
  directory: string,
  clients: readonly string[],
  clientsGiven: boolean,
  { options, output, now: seconds }: CommandContext,
): Promise<void> {
  const { makeAuthority, makeClient, makeServer } = await import('../tls/certificates.ts');
  const days = Number(options.value('days') ?? DEFAULT_DAYS);
  const now = seconds * 1000;
  const known = readAuthority(directory);
  const hasServer = existsSync(join(directory, 'server-cert.pem'));
  if (known !== null && hasServer) {
    if (options.has('host')) refuseExisting(join(directory, 'server-cert.pem'));
    if (!clientsGiven) refuseExisting(join(directory, 'ca-cert.pem'));
  }
  for (const name of clients) refuseExisting(join(directory, name, 'client-cert.pem'));
  const authority = known ?? (await makeAuthority(Math.max(AUTHORITY_DAYS, days), now));
  const files: NewFile[] = known === null ? signedFiles(directory, 'ca', authority) : [];
  const hosts = options.has('host') ? listOf([options.value('host') ?? '']) : ownNames();
  if (!hasServer) files.push(...signedFiles(directory, 'server', await makeServer(hosts, authority, days, now)));
  for (const name of clients) {
    const folder = join(directory, name);
    files.push({ path: join(folder, 'ca-cert.pem'), text: authority.certificate, secret: false });
    files.push(...signedFiles(folder, 'client', await makeClient(name, authority, days, now)));
  }
  write(files);
  if (known === null)
    output.print(
      `Made an authority: ${join(directory, 'ca-cert.pem')}. Its key, ca-key.pem, signs for others: keep it safe.`,
    );
  if (!hasServer)
    output.print(`Made a server's certificate for ${hosts.join(', ')}: tls.certificates = "${directory}".`);
  for (const name of clients)
    output.print(`Made a client's certificate: ${join(directory, name)}, for rules "dn:CN=${name},O=Orion LVM".`);
}

function signedFiles(directory: string, role: string, { certificate, key }: SignedKey): NewFile[] {
  return [
    { path: join(directory, `${role}-cert.pem`), text: certificate, secret: false },
    { path: join(directory, `${role}-key.pem`), text: key, secret: true },
  ];
}

function readAuthority(directory: string): SignedKey | null {
  const [certificate, key] = ['ca-cert.pem', 'ca-key.pem'].map((name) => join(directory, name)) as [string, string];
  if (!existsSync(certificate) && !existsSync(key)) return null;
  for (const [path, other] of [
    [certificate, key],
    [key, certificate],
  ] as const) {
    if (!existsSync(path))
      throw new CommandError(EXIT.failed, [`${other} exists without ${path}: it can't be used to sign.`]);
  }
  return { certificate: readFileSync(certificate, 'utf8'), key: readFileSync(key, 'utf8') };
}

/** Names by which this machine is surely reached. */
function ownNames(): readonly string[] {
  return [...new Set([hostname(), 'localhost', '127.0.0.1', '::1'])];
}

function makeKeys(directory: string, clients: readonly string[], { output }: CommandContext): void {
  const common = join(directory, 'keys.psk');
  const { text: before, names } = readKeys(common);
  for (const name of clients) {
    if (names.has(name)) throw new CommandError(EXIT.failed, [`${common} has a key of ${name} already.`]);
    const own = join(directory, name, 'keys.psk');
    if (existsSync(own)) {
      throw new CommandError(EXIT.failed, [`${own} exists, and ${common} has no key of ${name}: remove it first.`]);
    }
  }
  const lines = clients.map((name) => `${name}:${randomBytes(KEY_BYTES).toString('hex')}\n`);
  const files = clients.map((name, index): NewFile => {
    return { path: join(directory, name, 'keys.psk'), text: lines[index] ?? '', secret: true };
  });
  write(files);
  try {
    if (existsSync(common)) replaceKeys(common, `${before}${/[^\n]$/.test(before) ? '\n' : ''}${lines.join('')}`);
    else write([{ path: common, text: lines.join(''), secret: true }]);
  } catch (error) {
    for (const { path } of files) rmSync(path);
    throw error;
  }
  output.print(`The daemon's keys: tls.psk_file = "${common}".`);
  for (const name of clients)
    output.print(`Made a client's key: ${join(directory, name, 'keys.psk')}, for rules "psk:${name}".`);
}

function refuseExisting(path: string): void {
  if (existsSync(path)) throw new CommandError(EXIT.failed, [`${path} exists: nothing is written over.`]);
}

function write(files: readonly NewFile[]): void {
  for (const { path } of files) refuseExisting(path);
  writeNew(files);
}

export const command: Command = {
  summary: 'Make certificates or keys for NBD over TLS',
  argumentsUsage: 'init',
  options: [
    { long: 'dir', argument: 'Directory', description: 'Where they are put. Default: tls, in the working directory.' },
    {
      long: 'host',
      argument: 'Name|Address[,...]',
      check: (value) => {
        const hosts = listOf([value]);
        return hosts.length > 0 && hosts.every((host) => isIP(host) !== 0 || HOST_NAME.test(host));
      },
      description:
        "The names and addresses by which clients reach the server. Default: this host's name, localhost, 127.0.0.1 and ::1.",
    },
    {
      long: 'client',
      argument: 'Name[,...]',
      groupable: true,
      check: (value) => listOf([value]).every((name) => CLIENT_NAME.test(name)),
      description: 'Who gets a certificate or a key; may be repeated. Default: client.',
    },
    { long: 'psk', description: 'Make pre-shared keys instead of certificates.' },
    {
      long: 'days',
      argument: 'Number',
      check: (value) => /^\d{1,5}$/.test(value) && Number(value) > 0 && Number(value) <= MAX_DAYS,
      description: `How long certificates count. Default: ${DEFAULT_DAYS}; an authority counts for 20 years or longer.`,
    },
  ],
  run,
};
