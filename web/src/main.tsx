// Owns the start of the page in the browser.
// Loaded by index.html.
import { render } from 'preact';
import { App } from './app';
import './style/base.css';
import './style/controls.css';
import './style/build.css';
import './style/log.css';
import './style/ansi.css';

const root = document.getElementById('page');
if (root === null) throw new Error('index.html has no element with the id "page"');
render(<App />, root);
