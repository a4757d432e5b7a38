/**
 * The files of the library, each after the files that it imports; the last one exports AutoService. `tools/bundle.mjs` replaces this list
 * by the files in `dist/`.
 */
export const LIBRARY_FILES: readonly string[] = ['./service.js']
