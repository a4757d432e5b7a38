// @ts-check

/** The package's entries, the first one being the one that others are told from; where each one's declarations are. */
export const ENTRIES = [
  { name: 'index', path: 'index.d.ts' },
  { name: 'proxy', path: 'proxy/index.d.ts' },
  { name: 'operator', path: 'operator.d.ts' },
  { name: 'adapter', path: 'adapter.d.ts' },
  { name: 'errors', path: 'errors.d.ts' },
  { name: 'stores', path: 'stores/index.d.ts' },
  { name: 'auto', path: 'auto/index.d.ts' },
]
