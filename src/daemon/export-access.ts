/**
 * Which NBD clients an export is open to: the rules `[[access.exports]]` of lvm.toml. Pure.
 *
 * Invariants
 *  - The first rule that names the volume decides alone: a client that it doesn't allow gets nothing, whatever later rules say.
 *  - A volume that no rule names is open to whoever reaches the socket; a last rule for "*" closes what is left.
 *  - A client of which the system told nothing is only in "any", and in "unix" or "tcp" where at least that is known.
 *  - IPv4 clients of a socket that listens on IPv6 (::ffff:10.0.0.1) are in IPv4 networks.
 */
import { BlockList, isIP } from 'node:net';
import { isPrincipal, type Principal } from './access.ts';

/** An NBD client as the system knows it. */
export type ExportClient =
  | {
      readonly kind: 'unix';
      readonly uid: number;
      readonly gid: number;
      readonly groups: readonly number[];
    }
  | { readonly kind: 'tcp'; readonly address: string }
  | { readonly kind: 'unknown' };

export type ClientMatcher =
  | Principal
  | { readonly kind: 'net'; readonly text: string; readonly networks: BlockList }
  | { readonly kind: 'unix' }
  | { readonly kind: 'tcp' }
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

/** The text of the error that a refused client sees. */
export function exportRefusal(name: string, client: ExportClient): string {
  const who =
    client.kind === 'unix'
      ? `user ${client.uid}`
      : client.kind === 'tcp'
        ? `clients at ${client.address}`
        : 'this client';
  return `${name} is not open to ${who}`;
}

function namesVolume(volume: string, name: string): boolean {
  return volume === '*' || volume === name || name.startsWith(`${volume}/`);
}

function isClient(matcher: ClientMatcher, client: ExportClient): boolean {
  const { kind } = matcher;
  if (kind === 'any') return true;
  if (kind === 'unix' || kind === 'tcp') return client.kind === kind;
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
