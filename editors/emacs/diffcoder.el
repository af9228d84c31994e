;;; diffcoder.el --- diffcoder through eglot -*- lexical-binding: t -*-
;; Eglot runs one server for a buffer: this makes it diffcoder for the modes below.
(with-eval-after-load 'eglot
  (add-to-list 'eglot-server-programs '((prog-mode) . ("diffcoder" "lsp"))))

(defun diffcoder-fill-gaps ()
  "Fill each ‹?› and each stub body of the buffer."
  (interactive)
  (eglot-execute (eglot-current-server)
                 `(:command "diffcoder.fillGaps"
                   :arguments [(:uri ,(plist-get (eglot--TextDocumentIdentifier) :uri))])))

(defun diffcoder-edit (start end instruction)
  "Rewrite the lines from START to END as INSTRUCTION says."
  (interactive "r\nsInstruction: ")
  (eglot-execute (eglot-current-server)
                 `(:command "diffcoder.edit"
                   :arguments [(:uri ,(plist-get (eglot--TextDocumentIdentifier) :uri)
                                :range (:start ,(eglot--pos-to-lsp-position start)
                                        :end ,(eglot--pos-to-lsp-position end))
                                :instruction ,instruction)])))

(provide 'diffcoder)
