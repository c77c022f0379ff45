/** Names of VGs and LVs as users give them. */

/** "/dev/vg0" and "vg0/" are vg0. */
export function withoutDevDirectory(name: string): string {
  const bare = name.startsWith('/dev/') ? name.slice('/dev/'.length) : name;
  return bare.replace(/^\/+/, '').replace(/\/+$/, '');
}
