/**
 * `node:http`, asked for so that only what is used of it is made: an `import` makes all that it exports, and Node 22 and 24 load a whole HTTP
 * client for some of that (30 ms).
 */
export const nodeHttp = process.getBuiltinModule('node:http')
