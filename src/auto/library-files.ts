/**
 * The files of the library, each after the files that it imports; the last one exports AutoService. `tools/bundle.mjs` puts the files of
 * `dist/` here.
 */
export const LIBRARY_FILES: readonly string[] = ['./service.js']
