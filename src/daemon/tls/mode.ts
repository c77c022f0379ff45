/** Whether clients of a listener come over TLS. */

export const TLS_MODES = ['off', 'allowed', 'required'] as const;
/** What a listener's clients may, or must, do. */
export type TlsMode = (typeof TLS_MODES)[number];
