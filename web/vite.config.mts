// Owns how the page is built: web/src into dist/web, which the API serves as plain files from the root of its address.
// Called by `vite build --config web/vite.config.mts`, always from the top folder of the repository.
import { defineConfig } from 'vite';

// Vite takes its configuration from the default export only.
export default defineConfig({
  root: 'web',
  base: '/',
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  build: {
    outDir: '../dist/web',
    emptyOutDir: true,
    target: 'es2022',
    // The page is served under default-src 'self', which refuses data: addresses, so nothing is ever inlined.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
});
