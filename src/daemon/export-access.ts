/**
 * Which NBD clients an export is open to: the rules `[[access.exports]]` of lvm.toml. Pure.
 *
 * Invariants
 *  - The first rule that names the volume decides alone: a client that it doesn't allow gets nothing, whatever later rules say.
 *  - A volume that no rule names is open to whoever reaches the socket; a last rule for "*" closes what is left.
 *  - A client of which the system told nothing is only in "any", and in "unix" or "tcp" where at least that is known.
 *  - "tls" is whoever came over TLS; "dn" and "psk" are who showed that he is that one: a certificate that was verified, or a key.
 *  - IPv4 clients of a socket that listens on IPv6 (::ffff:10.0.0.1) are in IPv4 networks.
 */
import { BlockList, isIP } from 'node:net';
import { isPrincipal, type Principal } from './access.ts';
import { namesVolume } from './volume-names.ts';

/** An NBD client as the system knows it. */
export type ExportClient = (
  | {
      readonly kind: 'unix';
      readonly uid: number;
      readonly gid: number;
      readonly groups: readonly number[];
    }
  | { readonly kind: 'tcp'; readonly address: string }
  | { readonly kind: 'vsock'; readonly cid: number }
  | { readonly kind: 'unknown' }
) & {
  /** Absent: in plain text. */ readonly tls?: { readonly subject: string | null; readonly pskName: string | null };
};

export type ClientMatcher =
  | Principal
  | { readonly kind: 'net'; readonly text: string; readonly networks: BlockList }
  | { readonly kind: 'unix' }
  | { readonly kind: 'tcp' }
  | { readonly kind: 'tls' }
  /** The distinguished name of a certificate, as RFC 4514 writes it. */
  | { readonly kind: 'dn'; readonly name: string }
  /** The name of a pre-shared key. */
  | { readonly kind: 'psk'; readonly name: string }
  | { readonly kind: 'any' };

/** One `[[access.exports]]`. */
export interface ExportRule {
  /** "VG", "VG/LV" or "*". */
  readonly volumes: readonly string[];
  readonly allow: readonly ClientMatcher[];
  readonly allowReadOnly: readonly ClientMatcher[];
}

/** What a client may do with an export. */
export type ExportAccess = 'write' | 'read' | 'none';

/** `name` is the export's: VG/LV. */
export function exportAccess(rules: readonly ExportRule[], name: string, client: ExportClient): ExportAccess {
  const rule = rules.find(({ volumes }) => volumes.some((volume) => namesVolume(volume, name)));
  if (rule === undefined) return 'write';
  if (rule.allow.some((matcher) => isClient(matcher, client))) return 'write';
  return rule.allowReadOnly.some((matcher) => isClient(matcher, client)) ? 'read' : 'none';
}

/** Whether a client in plain text may hope to open the export over TLS. */
export function mayOpenOverTls(rules: readonly ExportRule[], name: string, client: ExportClient): boolean {
  const rule = rules.find(({ volumes }) => volumes.some((volume) => namesVolume(volume, name)));
  if (rule === undefined || client.tls !== undefined) return false;
  return [...rule.allow, ...rule.allowReadOnly].some(({ kind }) => kind === 'tls' || kind === 'dn' || kind === 'psk');
}

/** The text of the error that a refused client sees. */
export function exportRefusal(name: string, client: ExportClient): string {
  return `${name} is not open to ${nameOf(client)}`;
}

function nameOf(client: ExportClient): string {
  const { subject = null, pskName = null } = client.tls ?? {};
  if (subject !== null) return subject;
  if (pskName !== null) return `the key ${pskName}`;
  if (client.kind === 'unix') return `user ${client.uid}`;
  if (client.kind === 'tcp') return `clients at ${client.address}`;
  return client.kind === 'vsock' ? `machine ${client.cid}` : 'this client';
}

function isClient(matcher: ClientMatcher, client: ExportClient): boolean {
  const { kind } = matcher;
  if (kind === 'any') return true;
  if (kind === 'unix' || kind === 'tcp') return client.kind === kind;
  if (kind === 'tls') return client.tls !== undefined;
  if (kind === 'dn') return client.tls?.subject === matcher.name;
  if (kind === 'psk') return client.tls?.pskName === matcher.name;
  if (kind === 'net') return client.kind === 'tcp' && inNetwork(matcher.networks, client.address);
  return client.kind === 'unix' && isPrincipal(matcher, client);
}

function inNetwork(networks: BlockList, address: string): boolean {
  // A link-local address carries its interface: fe80::1%eth0.
  const [bare = ''] = address.split('%', 1);
  const family = isIP(bare);
  return family !== 0 && networks.check(bare, family === 4 ? 'ipv4' : 'ipv6');
}

/** The network of "10.0.0.0/8", "2001:db8::/32" or a single address; null if it is none. */
export function parseNetwork(text: string): BlockList | null {
  const [address = '', bits, ...rest] = text.split('/');
  const family = isIP(address);
  const width = family === 4 ? 32 : 128;
  const prefix = bits === undefined ? width : /^\d{1,3}$/.test(bits) ? Number(bits) : -1;
  if (family === 0 || rest.length > 0 || prefix < 0 || prefix > width || address.includes('%')) return null;
  const networks = new BlockList();
  networks.addSubnet(address, prefix, family === 4 ? 'ipv4' : 'ipv6');
  return networks;
}
